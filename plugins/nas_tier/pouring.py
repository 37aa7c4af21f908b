"""Pouring: what is in the journal goes to every tier that keeps things, each at its own pace.

A tier that does not answer holds up nobody but itself. A batch that failed in part is poured again whole: a tier takes
a record it has as the same. Once the home of a record has it, all nodes are told.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio

from sparkd import CallError, CallErrorKind, MemoryRecord, StorageError, TierPut, reached

from .blobs import Blobs
from .catalogue import Catalogue
from .figures import Counts, Figures
from .journal import Entry, Journal
from .places import NO_ANSWER, Place, Places
from .spool import Spool

AT_ONCE = 16
"""Records of a batch that are under way to one tier."""
PAUSE_LEAST_S, PAUSE_MOST_S = 0.2, 30.0
PASS_S = 0.1
"""How far each tier is, is noted so much later: one note for many writes. Whoever is killed before pours them again."""
PASS_AGAIN_S = 1.0
TRIES = 3
"""So often a tier must refuse a record for good before it becomes a dead letter."""
Told = Callable[[Place, list[MemoryRecord]], Awaitable[None]]


@dataclass(slots=True)
class Lane:
    """The way to one tier."""

    place: Place
    position: int
    noted: int = 0
    moved: anyio.Event = field(default_factory=anyio.Event)
    refusals: dict[int, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Versions that this tier lately took as older than what it has."""

    def advance(self, seq: int) -> None:
        """Go on to *seq*."""
        self.position = seq
        self.moved.set()
        self.moved = anyio.Event()

    async def reached(self, seq: int) -> None:
        """Wait until everything up to *seq* is there."""
        while self.position < seq:
            await self.moved.wait()


class Pouring:
    """All lanes."""

    def __init__(
        self,
        journal: Journal,
        places: Places,
        *,
        catalogue: Catalogue,
        spool: Spool,
        blobs: Blobs,
        figures: Figures,
        counts: Counts,
        told: Told,
    ) -> None:
        """Pour *journal* into those of *places* that keep things; call *told* with what is at home."""
        self._journal = journal
        self._places = places
        self._catalogue = catalogue
        self._spool = spool
        self._blobs = blobs
        self._figures = figures
        self._counts = counts
        self._told = told
        self._moved = anyio.Event()
        self._noting = anyio.Lock()
        self._beaten: set[int] = set()
        """Writes on their way that some tier has newer ones than: once everywhere, they are not read any more."""
        self.lanes: dict[str, Lane] = {}
        self.held: set[str] = set()
        """Tiers that get nothing now: this node was away for too long, and resynchronises first."""
        self.released = anyio.Event()

    async def open(self) -> None:
        """Find where each lane stood."""
        for place in self._places.all:
            if place.level > 1:
                noted = await self._catalogue.run(self._catalogue.get_meta, f"poured:{place.name}")
                position = min(max(int(noted or 0), self._journal.passed), self._journal.tail)
                self.lanes[place.name] = Lane(place, position, position)

    def release(self, name: str) -> None:
        """Let a tier have what is for it."""
        self.held.discard(name)
        self.released.set()
        self.released = anyio.Event()

    def behind(self, name: str) -> int:
        """Return how many writes a tier has not got yet, at the most."""
        lane = self.lanes.get(name)
        return 0 if lane is None else self._journal.tail - lane.position

    async def run(self, name: str) -> None:
        """Pour into one tier for ever."""
        lane, pause_s = self.lanes[name], PAUSE_LEAST_S
        while True:
            while name in self.held:
                await self.released.wait()
            wrote = self._journal.wrote
            batch = await self._journal.read(lane.position)
            self._figures.behind.labels(name).set(self.behind(name))
            if not batch:
                if lane.position < self._journal.tail:  # the rest was damaged, or has expired
                    await self._advance(lane, self._journal.tail)
                await wrote.wait()
                continue
            try:
                await self._pour(lane, batch)
            except CallError:
                with anyio.move_on_after(pause_s * random.uniform(0.8, 1.2)):
                    await lane.place.well.wait()
                pause_s = min(pause_s * 2, PAUSE_MOST_S)
            else:
                pause_s = PAUSE_LEAST_S

    async def _pour(self, lane: Lane, batch: list[Entry]) -> None:
        place = lane.place
        limiter = anyio.CapacityLimiter(AT_ONCE)
        failures: list[CallError] = []
        arrived: list[MemoryRecord] = []

        async def one(seq: int, record: MemoryRecord) -> None:
            async with limiter:
                if failures:
                    return
                try:
                    put = await self._offer(place, record)
                except CallError as error:
                    if error.kind in NO_ANSWER or not await self._refused(lane, seq, error):
                        failures.append(error)
                    return
                self._note(lane, seq, record, put)
                arrived.append(record)

        now_ms = self._now_ms()
        async with anyio.create_task_group() as tasks:
            for entry in batch:
                record = entry.record
                if record is not None and place.takes(record.privacy) and not record.expired(now_ms):
                    tasks.start_soon(one, entry.seq, record)
        reached("memory.after-tier")
        if arrived:
            await self._told(place, arrived)
        if failures:
            raise failures[0]
        await self._advance(lane, batch[-1].seq)

    def _now_ms(self) -> int:
        return self._blobs.now_ms()

    async def _offer(self, place: Place, record: MemoryRecord) -> TierPut:
        if record.is_blob:
            await self._blobs.bring(place, record)
            reached("memory.after-blob")
        put = await place.ask("put", lambda tier: tier.put(record=record))
        self._figures.bytes.labels(place.name, "in").inc(record.size)
        return put

    def _note(self, lane: Lane, seq: int, record: MemoryRecord, put: TierPut) -> None:
        if put.outcome not in ("older", "floor"):
            return
        self._beaten.add(seq)
        home = self._places.home(record.privacy)
        if home is lane.place:
            self._counts.lost_races += 1
            self._figures.lost_races.inc()
        lane.lost.add(record.version)
        if len(lane.lost) > 1000:  # noqa: PLR2004 - only writers that wait just now ask for them
            lane.lost.clear()

    async def _refused(self, lane: Lane, seq: int, error: CallError) -> bool:
        """Count a refusal; True if this tier is asked no more."""
        count = lane.refusals[seq] = lane.refusals.get(seq, 0) + 1
        if count < TRIES:
            return False
        del lane.refusals[seq]
        await self._journal.reject(seq, f"tier {lane.place.name} refused it: {error.message}")
        trouble = f"tier {lane.place.name} refused a write for good: {error.message}"
        lane.place.troubles.say(f"refused by {lane.place.name}", trouble, "see `sparkctl outbox dead nas-tier/writes`")
        return True

    async def _advance(self, lane: Lane, seq: int) -> None:
        lane.position = seq
        least = min(each.position for each in self.lanes.values())
        if any(beaten <= least for beaten in self._beaten):
            with suppress(StorageError, sqlite3.Error):  # it is noted again below
                await self._note_positions()
        lane.advance(seq)
        self._moved.set()

    async def note_for_ever(self) -> None:
        """Note how far the tiers are, and let the journal forget what all of them have."""
        while True:
            await self._moved.wait()
            await anyio.sleep(PASS_S)
            self._moved = anyio.Event()
            try:
                await self._note_positions()
            except (StorageError, sqlite3.Error):  # this node's disk; who writes is told
                await anyio.sleep(PASS_AGAIN_S)
                self._moved.set()

    async def _note_positions(self) -> None:
        async with self._noting:
            await self._note_them()

    async def _note_them(self) -> None:
        moved = {one.place.name: one.position for one in self.lanes.values() if one.position != one.noted}
        await self._catalogue.run(
            self._catalogue.set_metas, {f"poured:{name}": str(seq) for name, seq in moved.items()}
        )
        for name, seq in moved.items():
            self.lanes[name].noted = seq
        least = min((lane.position for lane in self.lanes.values()), default=self._journal.tail)
        await self._spool.forget(await self._journal.pass_to(least))
        self._beaten = {seq for seq in self._beaten if seq > least}

    async def wait(self, seq: int, record: MemoryRecord, *, limit_s: float) -> tuple[list[str], list[str]]:
        """Wait until the home of *record* has it; return the tiers that have it, and those that get it later."""
        home = self._places.home(record.privacy)
        lane = None if home is None else self.lanes.get(home.name)
        if lane is not None and home is not None and not home.open and home.name not in self.held:
            with anyio.move_on_after(limit_s):
                await lane.reached(seq)
        lanes = [self.lanes[place.name] for place in self._places.lasting(record.privacy)]
        have = [one.place.name for one in lanes if one.position >= seq]
        return have, [one.place.name for one in lanes if one.position < seq]

    def lost(self, record: MemoryRecord) -> bool:
        """Whether a tier lately took that version as older than what it has."""
        return any(record.version in lane.lost for lane in self.lanes.values())

    async def flush(self, namespace: str, key: str, privacy: int) -> None:
        """Wait until the home of a key has all that was written of it here. Raises CallError if it does not answer."""
        home = self._places.home(privacy)
        pending = await self._catalogue.run(self._catalogue.pending, namespace, key)
        if home is None or pending is None:
            return
        with anyio.move_on_after(home.limit_s):
            await self.lanes[home.name].reached(self._journal.tail)
            return
        remedy = "wait until it answers, or write without a condition"
        raise CallError(CallErrorKind.UNAVAILABLE, f"tier {home.name} has not got the last write yet", remedy=remedy)
