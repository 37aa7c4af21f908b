"""Reading: the nearest copy that may be taken, and who is asked beside whom. One flight a key.

The order is: what this node wrote and has not handed on; the hot tier; then tier by tier, the next one asked as well
once the one before has taken longer than usual. What is found fills the nearer tiers. Nothing found is kept in mind
for some seconds. Whoever does not answer is named, and an older copy is served, saying so.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from sparkd import CallError, CallErrorKind, MemoryRecord

from .catalogue import Catalogue
from .figures import Counts, Figures
from .flights import Flights
from .hot import Hot
from .namespaces import NamespaceConfig
from .on_their_way import OnTheirWay
from .places import NO_ANSWER, Place, Places

NOTHING_S = (5.0, 30.0)
"""How long it is kept in mind that there is nothing, with jitter."""
NOTHING_MOST = 10_000
Origin = Callable[[str, str, NamespaceConfig], Awaitable[MemoryRecord | None]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a read came to."""

    record: MemoryRecord | None
    """A tombstone is None here."""
    place: Place | None = None
    """None: the journal."""
    stale: str = ""
    """Why it may be older than what there is."""


NOTHING = Found(None)


class Reading:
    """Answers reads."""

    def __init__(
        self,
        places: Places,
        *,
        catalogue: Catalogue,
        hot: Hot,
        on_their_way: OnTheirWay,
        flights: Flights[Found],
        figures: Figures,
        counts: Counts,
        origin: Origin,
        now_ms: Callable[[], int],
    ) -> None:
        """Read from *places*; ask *origin* for what nobody has."""
        self._places = places
        self._catalogue = catalogue
        self._hot = hot
        self._on_their_way = on_their_way
        self._flights = flights
        self._figures = figures
        self._counts = counts
        self._origin = origin
        self._now_ms = now_ms
        self._nothing: OrderedDict[tuple[str, str], float] = OrderedDict()

    def forget_nothing(self, namespace: str, key: str) -> None:
        """Look again: there may be something by now."""
        self._nothing.pop((namespace, key), None)

    def forget_all_nothing(self) -> None:
        """Look again for everything."""
        self._nothing.clear()

    async def get(self, namespace: str, key: str, config: NamespaceConfig, *, max_age_s: float | None = None) -> Found:
        """Return the newest there is of a key, as far as can be known now. Raises CallError if nobody can say."""
        found = await self._near(namespace, key, config) if max_age_s is None else None
        if found is None:
            what = (namespace, key, max_age_s is not None)
            found = await self._flights.of(what, lambda: self._far(namespace, key, config, fresh=max_age_s is not None))
        elif found.record is not None and 0 < found.record.soft_ms <= self._now_ms():
            found = Found(found.record, found.place, "it is past its soft time; a fresh one is looked for")
            self._hot.later(lambda: self._refresh(namespace, key, config))
        self._count(found)
        return found

    def _count(self, found: Found) -> None:
        if found.record is None:
            self._counts.misses += 1
            self._figures.answers.labels("nothing").inc()
            return
        self._counts.hits += 1
        self._counts.stale += bool(found.stale)
        self._figures.answers.labels("stale" if found.stale else "fresh").inc()

    async def _near(self, namespace: str, key: str, config: NamespaceConfig) -> Found | None:
        """Return what this node's journal or the hot tier says; None if neither knows."""
        pending = await self._pending(namespace, key)
        record = await self._hot.get(namespace, key, int(config.reach))
        if pending is not None and (record is None or pending.version >= record.version):
            return self._alive(pending, None)
        if record is not None:
            return self._alive(record, self._hot.place(int(config.reach)))
        until = self._nothing.get((namespace, key))
        if until is not None and not config.origin:
            if anyio.current_time() < until:
                return NOTHING
            del self._nothing[namespace, key]
        return None

    async def _pending(self, namespace: str, key: str) -> MemoryRecord | None:
        if not self._on_their_way.may_have(namespace, key):
            return None
        return await self._catalogue.run(self._catalogue.pending, namespace, key)

    def _alive(self, record: MemoryRecord, place: Place | None, stale: str = "") -> Found:
        if record.deleted or record.expired(self._now_ms()):
            return Found(None, place, stale)
        return Found(record, place, stale)

    async def _far(self, namespace: str, key: str, config: NamespaceConfig, *, fresh: bool) -> Found:
        pending = await self._pending(namespace, key)
        asked = self._places.lasting(int(config.reach))
        record, place, silent = await self._walk(namespace, key, asked[::-1] if fresh else asked, hedged=not fresh)
        if pending is not None and (record is None or pending.version >= record.version):
            record, place = pending, None
        why = _silence(silent) if silent and (fresh or record is None) else ""
        if record is not None and not fresh:
            known = await self._catalogue.run(self._catalogue.head, namespace, key)
            if known is not None and known.version > record.version:  # a nearer tier has not got it yet
                newer, farther, silent = await self._walk(namespace, key, asked[::-1], hedged=False)
                if newer is not None and newer.version > record.version:
                    record, place = newer, farther
                else:
                    why = _silence(silent) or "a newer version is known, and no tier has it yet"
        if record is None:
            if why:
                remedy = "look at that tier: sparkctl memory stats"
                raise CallError(CallErrorKind.UNAVAILABLE, f"nobody can say what {key[:60]!r} is: {why}", remedy=remedy)
            return await self._nobody(namespace, key, config)
        found = self._alive(record, place, why)
        if place is not None:
            self._hot.fill(record, place)
        if found.record is None and config.origin:
            return await self._nobody(namespace, key, config)
        return found

    async def _nobody(self, namespace: str, key: str, config: NamespaceConfig) -> Found:
        if config.origin:
            made = await self._origin(namespace, key, config)
            if made is not None:
                return Found(made)
        self._nothing[namespace, key] = anyio.current_time() + random.uniform(*NOTHING_S)
        while len(self._nothing) > NOTHING_MOST:
            self._nothing.popitem(last=False)
        return NOTHING

    async def _refresh(self, namespace: str, key: str, config: NamespaceConfig) -> None:
        """Look at home for a fresh one, or have it made anew."""
        found = await self._flights.of((namespace, key, True), lambda: self._far(namespace, key, config, fresh=True))
        old = found.record
        if config.origin and (old is None or 0 < old.soft_ms <= self._now_ms()):
            await self._flights.of((namespace, key, "origin"), lambda: self._nobody(namespace, key, config))

    async def _walk(
        self, namespace: str, key: str, asked: list[Place], *, hedged: bool
    ) -> tuple[MemoryRecord | None, Place | None, list[Place]]:
        """Ask tier by tier; return the newest that was given by then, who gave it, and who did not answer."""
        walk = _Walk(namespace, key, len(asked))
        async with anyio.create_task_group() as tasks:
            for place in asked:
                done = anyio.Event()
                tasks.start_soon(walk.ask, place, done)
                with anyio.move_on_after(place.hedge_s() if hedged else place.limit_s + 1):
                    await done.wait()
                if walk.given:
                    break
            if asked:
                await walk.settled.wait()
            tasks.cancel_scope.cancel()
        if not walk.given:
            return None, None, walk.silent
        record, place = max(walk.given, key=lambda one: one[0].version)
        return record, place, walk.silent


def _silence(silent: list[Place]) -> str:
    return "; ".join(f"tier {one.name} does not answer: {one.breaker.reason}" for one in silent)


class _Walk:
    """Tiers that are asked for one key."""

    def __init__(self, namespace: str, key: str, left: int) -> None:
        self._namespace = namespace
        self._key = key
        self._left = left
        self.given: list[tuple[MemoryRecord, Place]] = []
        self.silent: list[Place] = []
        self.settled = anyio.Event()
        """Set when one gave a record, or none is left."""

    async def ask(self, place: Place, done: anyio.Event) -> None:
        try:
            record = await place.ask("get", lambda tier: tier.get(namespace=self._namespace, key=self._key))
        except CallError as error:
            if error.kind in NO_ANSWER:
                self.silent.append(place)
        else:
            place.hit(found=record is not None)
            if record is not None:
                self.given.append((record, place))
        self._left -= 1
        if self.given or not self._left:
            self.settled.set()
        done.set()
