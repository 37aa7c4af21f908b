"""All sources together: models take their newest frames in turn, what is found is published, pictures are kept."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sparkd import (
    CallError,
    Context,
    DeviceError,
    Inference,
    LocalMessageError,
    Privacy,
    SourceInfo,
    StorageError,
    Troubles,
)

from .board import Board, Waiting
from .config import HailoInferenceConfig
from .folder_source import FolderSource
from .modes import Modes
from .pipeline import Shot
from .roster import Roster
from .snapshots import Snapshots
from .source_config import SourceConfig
from .video import VideoFrame
from .vision import Meters
from .watch import Watch

RESULTS = 8
"""So many results may wait to be stored; then the models wait, and frames are dropped instead."""
PAUSE_S = 1.0


class SourceFigures(Collector):
    """What Prometheus is shown of the sources."""

    def __init__(self, infos: Callable[[], list[SourceInfo]]) -> None:
        """Read *infos* at each scrape."""
        self._infos = infos

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        frames = CounterMetricFamily(
            "sparkd_inference_frames", "Frames of live sources, by what became of them.", labels=["source", "outcome"]
        )
        live = GaugeMetricFamily("sparkd_inference_source_live", "Whether frames come.", labels=["source"])
        connects = CounterMetricFamily("sparkd_inference_source_connects", "Times it was opened.", labels=["source"])
        missed = CounterMetricFamily("sparkd_inference_snapshots_missed", "Not kept.", labels=["source"])
        for info in self._infos():
            for outcome in ("looked", "dropped", "skipped", "damaged"):
                frames.add_metric([info.name, outcome], getattr(info, outcome))
            live.add_metric([info.name], info.state == "live")
            connects.add_metric([info.name], info.connects)
            missed.add_metric([info.name], info.snapshots_missed)
        yield from (frames, live, connects, missed)


@dataclass(frozen=True, slots=True)
class _Result:
    watch: Watch
    frame: VideoFrame
    inference: Inference


class Live:
    """The live sources of a service."""

    def __init__(
        self,
        ctx: Context[HailoInferenceConfig],
        roster: Roster,
        meters: Meters,
        *,
        troubles: Troubles,
        heat_rate: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Look with the models of *roster* at the sources of the config; what ails them goes to *troubles*."""
        self._ctx, self._roster, self._meters = ctx, roster, meters
        specs = {spec.name: spec for spec in ctx.config.sources if spec.kind != "folder"}
        self._modes = Modes(ctx.config.modes, heat_rate, node=ctx.node, site=ctx.site)
        self._board: Board[VideoFrame] = Board(lambda name: self._modes.model_of(specs[name]))
        self._troubles = troubles
        folders = [spec for spec in ctx.config.sources if spec.kind == "folder"]
        self._folders = [FolderSource(ctx, spec, roster, meters, self._troubles) for spec in folders]
        make = partial(Watch, ctx, board=self._board, modes=self._modes, troubles=self._troubles)
        self._watches = {name: make(spec) for name, spec in specs.items()}
        self._snapshots = {
            name: Snapshots(spec, spec.snapshots) for name, spec in specs.items() if spec.snapshots is not None
        }
        ctx.metrics.register(SourceFigures(self.infos))

    def infos(self) -> list[SourceInfo]:
        """Return how each source is."""
        return [*(watch.info for watch in self._watches.values()), *(folder.info for folder in self._folders)]

    async def run(self) -> None:
        """Keep the sources open and look at them, for ever."""
        send, receive = anyio.create_memory_object_stream[_Result](RESULTS)
        rules = self._ctx.config.modes
        models = {watch.spec.model for watch in self._watches.values()} | {rule.model for rule in rules.values()}
        with send, receive:
            async with anyio.create_task_group() as tasks:
                for model in models | {""}:
                    tasks.start_soon(self._work, model, send)
                tasks.start_soon(self._publish_all, receive)
                if rules:
                    tasks.start_soon(self._modes.follow, self._ctx, self._board.wake)
                for watch in self._watches.values():
                    tasks.start_soon(watch.run)
                for folder in self._folders:
                    tasks.start_soon(folder.run)

    async def _work(self, model: str, send: MemoryObjectSendStream[_Result]) -> None:
        """Look at the newest frames for *model*, as many at once as it gains by."""
        while True:
            taken = await self._board.take(model, lambda: self._most(model))
            try:
                with self._roster.held(model or None) as engine:
                    inferences = await engine.look_at([_shot(one) for one in taken])
            except (CallError, DeviceError, ValueError) as error:
                name = model or "for callers who name none"
                remedy = getattr(error, "remedy", "") or "load it, or set another `model` for the sources"
                self._troubles.say(f"model {model}", f"the model {name} does not look at frames: {error}", remedy)
                await anyio.sleep(PAUSE_S)
                continue
            self._troubles.over(f"model {model}")
            for one, inference in zip(taken, inferences, strict=True):
                self._watches[one.source].looked += 1
                self._meters.looked(inference, origin="source")
                await send.send(_Result(self._watches[one.source], one.frame, inference))

    def _most(self, model: str) -> int:
        try:
            return self._roster.engine(model or None).model.backend.max_batch
        except CallError:
            return 1

    async def _publish_all(self, receive: MemoryObjectReceiveStream[_Result]) -> None:
        async for result in receive:
            inference = result.inference
            found = bool(inference.detections or inference.labels or inference.embedding)
            if found:
                inference = await self._with_snapshot(result)
            if found or result.watch.spec.publish == "all":
                await self._publish(inference, result.watch.spec)

    async def _publish(self, inference: Inference, spec: SourceConfig) -> None:
        try:
            await self._ctx.bus.publish(inference, privacy=Privacy.parse(spec.privacy))
        except (StorageError, LocalMessageError) as error:  # the next frame is as good: nothing waits for the disk
            self._meters.refused(origin="source", outcome="unstored")
            self._troubles.say("results", f"results cannot be stored: {error}", "make room on the disk of the state")
        else:
            self._troubles.over("results")

    async def _with_snapshot(self, result: _Result) -> Inference:
        name = result.watch.spec.name
        snapshots = self._snapshots.get(name)
        if snapshots is None or not snapshots.due():
            return result.inference
        try:
            kept = await anyio.to_thread.run_sync(_keep, snapshots, result)
        except (OSError, ValueError) as error:
            result.watch.snapshots_missed += 1
            full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
            remedy = "make room there" if full else "let the daemon's user write there, or set another `snapshots`"
            reason = getattr(error, "strerror", None) or str(error)
            self._troubles.say(f"snapshots {name}", f"source {name}: no snapshots: {reason}", remedy)
            return result.inference
        self._troubles.over(f"snapshots {name}")
        return replace(result.inference, snapshot=kept)


def _keep(snapshots: Snapshots, result: _Result) -> str:
    return snapshots.keep(result.frame.whole(), result.inference)


def _shot(one: Waiting[VideoFrame]) -> Shot:
    waited_ms = (time.monotonic() - one.since) * 1000
    return Shot(one.frame, one.source, one.frame.seen_ns, {"wait": waited_ms, "decode": one.frame.decode_ms})
