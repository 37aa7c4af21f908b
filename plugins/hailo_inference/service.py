"""The service: load the models, answer `vision`, watch the folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from sparkd import Context, DeviceError, SourceInfo, Troubles, Vision

from .config import DEFAULT_BUNDLE, HailoInferenceConfig
from .device_watch import Heat, watch_over
from .folder import Folder
from .processed import Processed
from .roster import Roster
from .vision import Meters, VisionCalls

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .device import Runtimes
    from .pipeline import Model


async def run(ctx: Context[HailoInferenceConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve until cancelled. Raises ConfigError for a bad bundle, DeviceError for what is missing on this machine."""
    loaded = await anyio.to_thread.run_sync(load_models, ctx.config)
    try:
        async with anyio.create_task_group() as tasks:
            heat = Heat(ctx.config.hailo)
            troubles = Troubles(ctx)
            tasks.start_soon(watch_over, ctx, loaded.runtimes, heat, troubles)
            roster = Roster(loaded.models, load=loaded.load, roots=bundle_roots(ctx), tasks=tasks)
            await _serve(ctx, roster, heat, tasks, troubles=troubles, task_status=task_status)
            await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(loaded.close)


def bundle_roots(ctx: Context[HailoInferenceConfig]) -> tuple[Path, ...]:
    """Return the folders that bundles may be loaded from: the service's own, those of the config, and the packaged."""
    return (ctx.state_dir / "models", *ctx.config.model_folders, DEFAULT_BUNDLE.parent)


async def _serve(
    ctx: Context[HailoInferenceConfig],
    roster: Roster,
    heat: Heat,
    tasks: TaskGroup,
    *,
    troubles: Troubles,
    task_status: TaskStatus[None],
) -> None:
    meters = Meters(ctx.metrics)
    infos: Callable[[], list[SourceInfo]] = list
    if ctx.config.sources:
        from .live import Live  # noqa: PLC0415 - brings numpy, which probing must not pay for

        live = Live(ctx, roster, meters, troubles=troubles, heat_rate=lambda: heat.rate)
        tasks.start_soon(live.run)
        infos = live.infos
    await ctx.serve(Vision, VisionCalls(roster, meters, max_bytes=ctx.config.max_bytes, sources=infos))
    if ctx.config.watch is None:
        task_status.started()
        return
    with await anyio.to_thread.run_sync(partial(Processed, ctx.state_dir / "processed.sqlite")) as processed:
        if processed.damaged:
            ctx.log.warning("record-damaged", put_aside=str(processed.damaged))
        folder = Folder(ctx, ctx.config.watch, roster, meters, processed, troubles)
        await folder.run(task_status=task_status)


@dataclass
class Loaded:
    """The models, and what they run on."""

    models: list[Model]
    runtimes: Runtimes
    load: Callable[[Path], Model]

    def close(self) -> None:
        """Close the models, then what they ran on."""
        for model in self.models:
            model.backend.close()
        self.runtimes.close()


def load_models(config: HailoInferenceConfig) -> Loaded:
    """Load every configured bundle. Raises DeviceError with a remedy if the packages for it are not installed."""
    try:
        for package in ("numpy", "PIL"):
            importlib.import_module(package)
    except ImportError as error:
        raise DeviceError(f"pictures need a package: {error}", remedy="pip install 'sparkd[inference]'") from error
    from .device import open_runtimes  # noqa: PLC0415 - only now is numpy known to be there
    from .pipeline import open_model, open_models  # noqa: PLC0415 - likewise

    runtimes = open_runtimes(config)
    try:
        models = open_models(config, runtimes)
    except BaseException:
        runtimes.close()
        raise
    return Loaded(models, runtimes, partial(open_model, config=config, runtimes=runtimes))
