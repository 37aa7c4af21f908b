"""How the memory is, as `stats` tells."""

from __future__ import annotations

import anyio

from sparkd import CallError, MemoryStats, NamespaceStatus, TierAbout, TierStatus

from .parts import Parts
from .places import Place

ABOUT_LIMIT_S = 2.0


async def stats_of(parts: Parts, readable: set[str]) -> MemoryStats:
    """Return all that is known; of the namespaces only those that are *readable*."""
    abouts: dict[str, TierAbout | str] = {}

    async def ask(place: Place) -> None:
        try:
            abouts[place.name] = await place.ask("about", lambda tier: tier.about(), limit_s=ABOUT_LIMIT_S)
        except CallError as error:
            abouts[place.name] = error.message

    async with anyio.create_task_group() as tasks:
        for place in parts.places.all:
            tasks.start_soon(ask, place)
    usage = await parts.catalogue.run(parts.catalogue.usage)
    names = sorted(readable & {*usage, *parts.namespaces.known})
    counts = parts.counts
    return MemoryStats(
        tiers=[_tier(parts, place, abouts[place.name]) for place in parts.places.all],
        namespaces=[
            NamespaceStatus(
                name=name,
                privacy=parts.namespaces.of(name).privacy,
                owner=parts.namespaces.of(name).owner,
                records=usage[name].records if name in usage else 0,
                bytes=usage[name].bytes if name in usage else 0,
                quota_bytes=parts.namespaces.of(name).quota_bytes,
            )
            for name in names
        ],
        hits=counts.hits,
        misses=counts.misses,
        stale=counts.stale,
        writes=counts.writes,
        lost_races=counts.lost_races,
        healed=counts.healed,
        damaged=counts.damaged,
        resynchronising=bool(parts.pouring.held),
    )


def _tier(parts: Parts, place: Place, about: TierAbout | str) -> TierStatus:
    known = about if isinstance(about, TierAbout) else None
    p50, p95 = place.counts.quantile(0.5), place.counts.quantile(0.95)
    return TierStatus(
        name=place.name,
        kind=place.kind,
        level=place.level,
        breaker=place.breaker.state(anyio.current_time()),
        reason=about if isinstance(about, str) else about.reason,
        hits=place.counts.hits,
        misses=place.counts.misses,
        errors=place.counts.errors,
        slow=place.counts.slow,
        p50_ms=None if p50 is None else round(p50 * 1000, 3),
        p95_ms=None if p95 is None else round(p95 * 1000, 3),
        records=None if known is None else known.records,
        bytes=None if known is None else known.bytes,
        free_bytes=None if known is None else known.free_bytes,
        behind=parts.pouring.behind(place.name),
    )
