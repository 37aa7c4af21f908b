"""Keeping up with what others change: each tier that keeps things is read for changes, and followed.

A change that is newer than what this node knew goes into the catalogue and the index, its hot copies go, and a change
in tier 3 is mirrored to the NAS, so that the home keeps its memory when the cloud is gone. A tier that was emptied or
replaced is filled again from the others. A node that has not seen a tier for as long as deleted keys are remembered
looks through all of it before it writes anything there: what it believes to be there may have been deleted since.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import anyio

from sparkd import CallError, Log, MemoryRecord, Tier, TierChanges

from .blobs import Blobs
from .catalogue import Catalogue
from .clock import VersionClock, just_after
from .hot import Hot
from .places import NO_ANSWER, Place, Places
from .pouring import Pouring
from .reading import Reading

PAGE = 500
PAUSE_LEAST_S = 1.0
AT_ONCE = 8
Index = Callable[[MemoryRecord], None]


class Syncing:
    """Follows the tiers."""

    def __init__(
        self,
        places: Places,
        *,
        node_id: str,
        catalogue: Catalogue,
        clock: VersionClock,
        hot: Hot,
        reading: Reading,
        pouring: Pouring,
        blobs: Blobs,
        index: Index,
        log: Log,
        every_s: float,
        away_s: float,
    ) -> None:
        """Look *every_s* seconds, and when told."""
        self._places = places
        self._node_id = node_id
        self._catalogue = catalogue
        self._clock = clock
        self._hot = hot
        self._reading = reading
        self._pouring = pouring
        self._blobs = blobs
        self._index = index
        self._log = log
        self._every_s = every_s
        self._away_s = away_s
        self._told: dict[str, anyio.Event] = {}
        self.rounds: dict[str, int] = {}
        """How often each tier was looked through to its end."""

    def tell(self, name: str) -> None:
        """Look at the tier *name* now, or at all if there is none of that name."""
        for each in [name] if name in self._told else list(self._told):
            self._told[each].set()

    async def begin(self) -> None:
        """Hold back what is for tiers that this node has not seen for too long."""
        for place in self._places.all:
            if place.level > 1:
                self._told[place.name] = anyio.Event()
                seen_ms = int(await self._meta(f"seen:{place.name}") or 0)
                if seen_ms and self._clock.now_ms() - seen_ms > self._away_s * 1000:
                    self._pouring.held.add(place.name)
                    await self._set_meta(f"cursor:{place.name}", "")
                    days = round((self._clock.now_ms() - seen_ms) / 86_400_000)
                    self._log.warning("resynchronising before anything is written", tier=place.name, away_days=days)

    async def run(self, place: Place) -> None:
        """Follow one tier for ever."""
        pause_s = PAUSE_LEAST_S
        while True:
            told, well = anyio.Event(), place.well
            self._told[place.name] = told
            try:
                await self._round(place)
            except CallError as error:
                if error.kind not in NO_ANSWER:
                    self._log.warning("a tier cannot be followed", tier=place.name, reason=error.message)
                await _first_of(told, well, limit_s=min(pause_s, self._every_s) * random.uniform(0.9, 1.1))
                pause_s *= 2
            else:
                pause_s = PAUSE_LEAST_S
                # a tier that failed and answers again may be another one, or know what nobody could tell meanwhile
                await _first_of(told, place.well, limit_s=self._every_s * random.uniform(0.9, 1.1))

    async def _round(self, place: Place) -> None:
        about = await place.ask("about", lambda tier: tier.about())
        known = await self._meta(f"ident:{place.name}")
        if about.ident != known:
            if known:
                self._log.warning("a tier was emptied or replaced: it is filled again", tier=place.name)
            await self._set_meta(f"cursor:{place.name}", "")
            await self._refill(place)
            await self._set_meta(f"ident:{place.name}", about.ident)
        begun_ms = self._clock.now_ms()
        held = place.name in self._pouring.held
        seen: set[tuple[str, str]] | None = set() if held else None
        while True:
            cursor = await self._meta(f"cursor:{place.name}")
            page = await place.ask("changes", partial(_changes, cursor=cursor))
            await self._take(place, page, seen)
            await self._set_meta(f"cursor:{place.name}", page.cursor)
            if not page.more:
                break
        if held:
            await self._purge(place, about.floor, seen or set())
            self._pouring.release(place.name)
            self._log.info("resynchronised", tier=place.name)
        await self._set_meta(f"seen:{place.name}", str(begun_ms))
        self.rounds[place.name] = self.rounds.get(place.name, 0) + 1

    async def _take(self, place: Place, page: TierChanges, seen: set[tuple[str, str]] | None) -> None:
        if seen is not None:
            seen.update((record.namespace, record.key) for record in page.records)
        applied = await self._catalogue.run(self._catalogue.apply, page.records)
        newer = [record for record, found in zip(page.records, applied, strict=True) if found == "newer"]
        for record in newer:
            self._clock.seen(record.version)
            self._reading.forget_nothing(record.namespace, record.key)
        by_namespace: dict[tuple[str, int], list[str]] = {}
        for record in newer:
            by_namespace.setdefault((record.namespace, record.privacy), []).append(record.key)
        await self._mirror(place, page.records)
        for (namespace, privacy), keys in by_namespace.items():
            await self._hot.drop(namespace, keys, privacy)  # after the mirror, or a read brings the old one back
        for record in newer:
            self._index(record)

    async def _mirror(self, place: Place, records: list[MemoryRecord]) -> None:
        """Put what changed in a farther tier into the nearer ones that keep things."""
        limiter = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for other in self._places.all:
                if 1 < other.level < place.level:
                    for record in records:
                        if other.takes(record.privacy) and not record.expired(self._clock.now_ms()):
                            tasks.start_soon(self._copy, place, other, record, limiter)

    async def _copy(self, source: Place, target: Place, record: MemoryRecord, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            try:
                there = await target.ask("get", lambda tier: tier.get(namespace=record.namespace, key=record.key))
                if there is not None and there.version >= record.version:
                    return
                whole = record
                if not record.deleted and record.value is None:
                    found = await source.ask("get", lambda tier: tier.get(namespace=record.namespace, key=record.key))
                    if found is None or not target.takes(found.privacy):
                        return
                    whole = found
                if whole.is_blob:
                    await self._blobs.bring(target, whole)
                await target.ask("put", lambda tier: tier.put(record=whole))
            except CallError as error:
                if error.kind in NO_ANSWER and target.open:
                    return  # it is filled by reads, and by the walk when it was replaced
                self._log.warning("a copy was not made", source=source.name, target=target.name, reason=error.message)

    async def _refill(self, target: Place) -> None:
        """Put all that other tiers have, and *target* may have, into it."""
        limiter = anyio.CapacityLimiter(AT_ONCE)
        for source in self._places.all:
            if source is target or source.level == 1 or source.only != target.only:
                continue
            cursor = ""
            while True:
                try:
                    page = await source.ask("changes", partial(_changes, cursor=cursor))
                except CallError as error:
                    self._log.warning("a tier is not filled from another", source=source.name, reason=error.message)
                    break
                async with anyio.create_task_group() as tasks:
                    for record in page.records:
                        if target.takes(record.privacy) and not record.expired(self._clock.now_ms()):
                            tasks.start_soon(self._copy, source, target, record, limiter)
                cursor = page.cursor
                if not page.more:
                    break

    async def _purge(self, place: Place, floor: str, seen: set[tuple[str, str]]) -> None:
        """Delete nearer copies of what is not at home any more, and was so old that its deletion is forgotten."""
        after = ("", "")
        while heads := await self._catalogue.run(self._catalogue.heads, after, PAGE):
            after = (heads[-1].namespace, heads[-1].key)
            for head in heads:
                gone = (head.namespace, head.key) not in seen and head.version < floor and not head.deleted
                if gone and self._places.home(head.privacy) is place:
                    await self._bury(place, head)

    async def _bury(self, home: Place, head: MemoryRecord) -> None:
        grave = MemoryRecord(
            namespace=head.namespace,
            key=head.key,
            version=just_after(head.version, self._node_id),
            deleted=True,
            written_ms=self._clock.now_ms(),
            privacy=head.privacy,
        )
        for near in self._places.of(head.privacy):
            if near is not home:
                await near.ask("put", lambda tier: tier.put(record=grave))
        await self._catalogue.run(self._catalogue.apply, [grave])

    async def _meta(self, name: str) -> str:
        return await self._catalogue.run(self._catalogue.get_meta, name)

    async def _set_meta(self, name: str, value: str) -> None:
        await self._catalogue.run(self._catalogue.set_meta, name, value)


async def _changes(tier: Tier, *, cursor: str) -> TierChanges:
    return await tier.changes(cursor=cursor, limit=PAGE)


async def _first_of(*events: anyio.Event, limit_s: float) -> None:
    """Wait for one of *events*, but not for longer."""
    with anyio.move_on_after(limit_s):
        async with anyio.create_task_group() as tasks:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                tasks.cancel_scope.cancel()

            for event in events:
                tasks.start_soon(wait, event)
