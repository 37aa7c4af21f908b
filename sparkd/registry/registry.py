"""All plugins of the node, as results: what each offers, or why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from sparkd.registry.cache import ManifestCache
from sparkd.registry.discover import GROUP, discover
from sparkd.registry.probe import LIMIT_S, MEMORY_BYTES, probe
from sparkd.registry.source import Failure, FailureKind, PluginSource, ProbeResult
from sparkd.zygote import Zygote

PROBES_AT_ONCE = 4

Key = tuple[str, str, str, str]


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
        self._limit_s = limit_s
        self._memory_bytes = memory_bytes
        self._accepted: set[Key] = set()

    async def read(self, wanted: Callable[[PluginSource], bool] = lambda _: True) -> tuple[ProbeResult, ...]:
        """Return a result for every plugin there is now that is *wanted*, by name. The others are not imported."""
        found = await anyio.to_thread.run_sync(lambda: discover(self._folders, group=self._group))
        results = [result for result in found.refused if wanted(result.source)]
        limiter = anyio.CapacityLimiter(PROBES_AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for source in filter(wanted, found.sources):
                tasks.start_soon(self._read_one, source, limiter, results)
        results = refuse_duplicates(results, incumbents=self._accepted)
        self._accepted = {result.source.key for result in results if result.failure is None}
        await anyio.to_thread.run_sync(self._cache.prune, [source.hash for source in found.sources])
        return tuple(sorted(results, key=lambda result: result.source.key[1:]))

    async def _read_one(self, source: PluginSource, limiter: anyio.CapacityLimiter, results: list[ProbeResult]) -> None:
        known = await anyio.to_thread.run_sync(self._cache.get, source.hash)
        if known is not None:
            results.append(ProbeResult(source=source, manifests=known, cached=True))
            return
        async with limiter:
            result = await probe(self._zygote, source, limit_s=self._limit_s, memory_bytes=self._memory_bytes)
        if result.failure is None:
            await anyio.to_thread.run_sync(self._cache.put, source.hash, result.manifests)
        results.append(result)


def refuse_duplicates(results: Iterable[ProbeResult], *, incumbents: Collection[Key] = ()) -> list[ProbeResult]:
    """Return *results* with each refused that takes a plugin's or service's name of one before it.

    The *incumbents* come first, then what is installed, then drop-ins; otherwise names decide.
    """
    plugins: dict[str, PluginSource] = {}
    services: dict[str, PluginSource] = {}
    judged = []
    for result in sorted(
        results, key=lambda r: (r.source.key not in incumbents, r.source.kind != "entry-point", r.source.key)
    ):
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
