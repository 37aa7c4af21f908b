"""All plugins of the node, as results: what each offers, or why it cannot be used.

A plugin that hangs while it is imported must not hold back the others for its ten seconds. While `follow` runs,
`read` waits a second for the probes it started, reports what is still under way as pending, and `late` tells when it
pays to read again. How a slow probe ended is remembered by content, so that it is not repeated at every change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from sparkd.registry.cache import ManifestCache
from sparkd.registry.discover import GROUP, Discovery, discover
from sparkd.registry.probe import LIMIT_S, MEMORY_BYTES, probe
from sparkd.registry.source import Failure, FailureKind, PluginSource, ProbeResult, SourceKind
from sparkd.service import Manifest
from sparkd.zygote import Zygote

PROBES_AT_ONCE = 4
"""Young probes, that is: one that takes longer than the patience gives up its place, or four could block the rest."""
PATIENCE_S = 1.0
FORGET_FAILURES_S = 240.0
"""A slow failure is tried again after this; the daemon retries what failed every five minutes."""

Key: TypeAlias = tuple[str, str, str, str]


@dataclass(slots=True)
class _Reading:
    """A probe under way."""

    source: PluginSource
    done: anyio.Event = field(default_factory=anyio.Event)
    result: ProbeResult | None = None
    awaited: bool = True
    """Whether a `read` still waits for it."""


class Registry:
    """Reads plugins on request. It remembers which it accepted: a newcomer never takes a name from one of those."""

    def __init__(
        self,
        zygote: Zygote,
        *,
        folders: Sequence[Path],
        cache: ManifestCache,
        group: str | None = GROUP,
        limit_s: float = LIMIT_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._zygote = zygote
        self._folders = tuple(folders)
        self._cache = cache
        self._group = group
        self.instead: Mapping[Path, Path | None] = {}
        """Drop-ins that are read from another place than their own; None for not at all."""
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._limiter = anyio.CapacityLimiter(PROBES_AT_ONCE)
        self._tasks: TaskGroup | None = None
        self._late = anyio.Event()
        self._readings: dict[str, _Reading] = {}
        self._slow: dict[str, tuple[float, ProbeResult]] = {}
        self._accepted: set[Key] = set()

    async def follow(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Carry slow probes on in the background, until cancelled. Without it `read` waits for all of them."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None
                self._readings.clear()

    async def late(self) -> None:
        """Return once a probe that `read` reported as pending has ended since the last call."""
        await self._late.wait()
        self._late = anyio.Event()

    async def read(self, wanted: Callable[[PluginSource], bool] = lambda _: True) -> tuple[ProbeResult, ...]:
        """Return a result for every plugin there is now that is *wanted*, by name. The others are not imported."""
        found, cached = await anyio.to_thread.run_sync(self._look, wanted)
        present = {source.hash for source in found.sources}
        self._slow = {digest: known for digest, known in self._slow.items() if digest in present}
        results = [result for result in found.refused if wanted(result.source)]
        unread = []
        for source in filter(wanted, found.sources):
            if source.hash in cached:
                results.append(ProbeResult(source=source, manifests=cached[source.hash], cached=True))
            elif (known := self._remembered(source)) is not None:
                results.append(known)
            else:
                unread.append(source)
        results = refuse_duplicates([*results, *(await self._read_all(unread))], incumbents=self._accepted)
        self._accepted = {result.source.key for result in results if result.failure is None}
        return tuple(sorted(results, key=lambda result: result.source.key[1:]))

    def _look(self, wanted: Callable[[PluginSource], bool]) -> tuple[Discovery, dict[str, tuple[Manifest, ...]]]:
        found = discover(self._folders, group=self._group, instead=self.instead)
        present = {source.hash for source in found.sources}
        self._cache.prune(present)
        known = {source.hash: self._cache.get(source.hash) for source in found.sources if wanted(source)}
        return found, {digest: manifests for digest, manifests in known.items() if manifests is not None}

    def _remembered(self, source: PluginSource) -> ProbeResult | None:
        ended_s, result = self._slow.get(source.hash, (0.0, None))
        if result is None or (result.failure and time.monotonic() - ended_s > FORGET_FAILURES_S):
            self._slow.pop(source.hash, None)
            return None
        return result

    async def _read_all(self, sources: Sequence[PluginSource]) -> list[ProbeResult]:
        async with anyio.create_task_group() as own:
            readings = [self._begin(source, self._tasks or own) for source in sources]
            with anyio.move_on_after(PATIENCE_S if self._tasks else None):
                for reading in readings:
                    await reading.done.wait()
        for reading in readings:
            reading.awaited = False
        return [reading.result or _pending(reading.source) for reading in readings]

    def _begin(self, source: PluginSource, tasks: TaskGroup) -> _Reading:
        reading = self._readings.get(source.hash)
        if reading is None:
            reading = self._readings[source.hash] = _Reading(source)
            tasks.start_soon(self._take_turn, reading)
        return reading

    async def _take_turn(self, reading: _Reading) -> None:
        async with anyio.create_task_group() as tasks, self._limiter:
            tasks.start_soon(self._probe, reading)
            with anyio.move_on_after(PATIENCE_S):
                await reading.done.wait()

    async def _probe(self, reading: _Reading) -> None:
        source, began_s = reading.source, time.monotonic()
        try:
            result = await probe(self._zygote, source, limit_s=self._limit_s, memory_bytes=self._memory_bytes)
            if result.failure is None:
                await anyio.to_thread.run_sync(self._cache.put, source.hash, result.manifests)
        finally:
            self._readings.pop(source.hash, None)
        reading.result = result
        reading.done.set()
        ended_s = time.monotonic()
        if ended_s - began_s > PATIENCE_S:
            self._slow[source.hash] = (ended_s, result)
        if not reading.awaited:
            self._late.set()


def _pending(source: PluginSource) -> ProbeResult:
    failure = Failure(kind=FailureKind.PENDING, message="it is still being imported", file=source.path)
    return ProbeResult(source=source, failure=failure)


def refuse_duplicates(results: Iterable[ProbeResult], *, incumbents: Collection[Key] = ()) -> list[ProbeResult]:
    """Return *results* with each refused that takes a plugin's or service's name of one before it.

    The *incumbents* come first, then what is installed, then drop-ins; otherwise names decide.
    """

    def rank(result: ProbeResult) -> tuple[bool, bool, Key]:
        source = result.source
        return source.key not in incumbents, source.kind is not SourceKind.ENTRY_POINT, source.key

    plugins: dict[str, PluginSource] = {}
    services: dict[str, PluginSource] = {}
    judged = []
    for result in sorted(results, key=rank):
        failure = result.failure or _clash(result, plugins, services)
        if failure is None:
            plugins[result.source.name] = result.source
            services |= {manifest.name: result.source for manifest in result.manifests}
            judged.append(result)
        else:
            judged.append(msgspec.structs.replace(result, manifests=(), failure=failure))
    return judged


def _clash(result: ProbeResult, plugins: dict[str, PluginSource], services: dict[str, PluginSource]) -> Failure | None:
    what, name, holder = "plugin", result.source.name, plugins.get(result.source.name)
    for manifest in result.manifests:
        if holder is None and manifest.name in services:
            what, name, holder = "service", manifest.name, services[manifest.name]
    if holder is None:
        return None
    return Failure(
        kind=FailureKind.DUPLICATE,
        message=f"the {what} name {name!r} is taken by {holder.name} ({holder.path})",
        remedy=f"rename the {what}, or remove one of the two",
        file=result.source.path,
    )
