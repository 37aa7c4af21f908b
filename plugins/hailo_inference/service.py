"""The service: load the models, answer `vision`, watch the folder."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import Context, DeviceError, Vision

from .config import HailoInferenceConfig
from .folder import Folder
from .processed import Processed
from .vision import Engine, Meters, VisionCalls

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .pipeline import Model


async def run(ctx: Context[HailoInferenceConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve until cancelled. Raises ConfigError for a bad bundle, DeviceError for what is missing on this machine."""
    models = await anyio.to_thread.run_sync(load_models, ctx.config)
    meters = Meters(ctx.metrics)
    engines = [Engine(model) for model in models]
    try:
        await ctx.serve(Vision, VisionCalls(engines, meters, max_bytes=ctx.config.max_bytes))
        if ctx.config.watch is None:
            task_status.started()
            await anyio.sleep_forever()
        else:
            with await anyio.to_thread.run_sync(partial(Processed, ctx.state_dir / "processed.sqlite")) as processed:
                if processed.damaged:
                    ctx.log.warning("record-damaged", put_aside=str(processed.damaged))
                folder = Folder(ctx, ctx.config.watch, engines[0], meters, processed)
                await folder.run(task_status=task_status)
    finally:
        for model in models:
            model.backend.close()


def load_models(config: HailoInferenceConfig) -> list[Model]:
    """Load every configured bundle. Raises DeviceError with a remedy if the packages for it are not installed."""
    try:
        for package in ("numpy", "PIL"):
            importlib.import_module(package)
    except ImportError as error:
        raise DeviceError(f"pictures need a package: {error}", remedy="pip install 'sparkd[inference]'") from error
    from .pipeline import open_models  # noqa: PLC0415 - only now is numpy known to be there

    return open_models(config)
