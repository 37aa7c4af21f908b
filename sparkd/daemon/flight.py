"""The flight recorder's hands: opens its files, takes looks, writes them. Blocks: every method runs in a thread."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sparkd.recorder.fold import Fold, Minute, Totals, no_totals
from sparkd.recorder.history import LAST_CRASH, RING
from sparkd.recorder.proc import boot_id
from sparkd.recorder.ring import Ring, RingWriter
from sparkd.recorder.sample import Sample, row
from sparkd.recorder.store import FoldStore, Left
from sparkd.recorder.watch import CORE, ZYGOTE, Watch, add

PENDING_MINUTES = 60
"""Kept in memory while the disk takes none; beyond them the oldest go."""
AGAIN_S = 60.0
"""From a failure to open the ring to the next try."""
HEAVIEST = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the core knows at a moment, for each service by name."""

    pids: Mapping[str, int]
    states: Mapping[str, str]
    restarts: Mapping[str, int]
    counted: Mapping[str, Mapping[str, int]]
    """Columns of the bus and the link: counts since the service's process, or the link, began."""
    answer_us: Mapping[str, int]


@dataclass
class Flight:
    """The recorder of one run of the daemon."""

    ring: RingWriter
    store: FoldStore
    watch: Watch
    boot: str
    minute: Minute
    totals: Totals = field(default_factory=lambda: no_totals(time.time()))
    pending: list[Fold] = field(default_factory=list)
    """Minutes that are not on disk yet."""
    latest: Sample | None = None
    ring_problem: str = ""
    disk_problem: str = ""
    lost_minutes: int = 0
    _before: dict[tuple[str, str], int] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _try_at: float = 0.0

    def open(self) -> dict[str, str]:
        """Take up what the run before left; return what is to be told of it if it did not end by its own orders."""
        left = self._left()
        before = self._open_ring()
        if before is None and self.totals.boot == self.boot:
            self.ring.number = max(self.ring.number, self.totals.number)
        crash: dict[str, str] = {}
        if before is not None and before.entries and not before.clean:
            crash = self._crashed(before)
        elif before is None and left is not None and not left.clean:
            at = f"{_when(left.last.wall_ns)}" if left.last else "unknown"
            crash = {"last": at, "ring": "gone: the machine went down too, or its runtime folder was removed"}
        if before is not None:
            self._take_up(before)
        self.totals.boot = self.boot
        return crash

    def _left(self) -> Left | None:
        try:
            left = Left(self.store.folder)
        except OSError as error:
            self.disk_problem = f"{self.store.folder} cannot be read: {error.strerror}"
            return None
        if left.totals is not None:
            self.totals = left.totals
        return left

    def _open_ring(self) -> Ring | None:
        self._try_at = time.monotonic() + AGAIN_S
        try:
            before = self.ring.open()
        except OSError as error:
            room = "; make room there, or lower [recorder] ring_bytes" if error.errno == errno.ENOSPC else ""
            self.ring_problem = f"no ring in {self.ring.path.parent}: {error.strerror}{room}"
            return None
        self.ring_problem = ""
        return before

    def _crashed(self, before: Ring) -> dict[str, str]:
        """Keep the ring of the run before aside; return what it says last."""
        aside = self.ring.path.with_name(LAST_CRASH)
        part = aside.with_suffix(".part")
        try:
            shutil.copy(self.ring.path, part)  # with its mode
            part.replace(aside)
        except OSError as error:
            part.unlink(missing_ok=True)
            kept = f"not kept: {error.strerror}"
        else:
            kept = str(aside)
        last = before.last()
        if last is None:
            return {"last": "unknown", "kept": kept}
        heaviest = sorted(last.rows, key=lambda one: one.value("rss"), reverse=True)[:HEAVIEST]
        shown = ", ".join(f"{one.name} {one.value('rss') / _MIB:.0f} MiB" for one in heaviest)
        return {"last": _when(last.wall_ns), "memory": shown, "kept": kept}

    def _take_up(self, before: Ring) -> None:
        """Count and fold what the run before recorded and did not write to disk."""
        done = self.totals.number if self.totals.boot == self.boot else 0
        for number, sample in before.samples(after=done):
            self._count(number, sample)
        rest = self.minute.end()  # what is recorded from now on is another run's
        self.pending += [rest] if rest else []

    def _count(self, number: int, sample: Sample) -> None:
        self.totals.begin_day(sample.wall_ns / 1e9)
        self.totals.add(sample.rows)
        self.totals.number = number
        done = self.minute.add(number, sample)
        if done is not None:
            self.pending.append(done)
            gone = len(self.pending) - PENDING_MINUTES
            if gone > 0:
                del self.pending[:gone]
                self.lost_minutes += gone

    def look(self, facts: Facts) -> None:
        """Take one look at everything and put it into the ring."""
        sample = self._sample(facts)
        if not self.ring.is_open and time.monotonic() >= self._try_at:
            self._open_ring()
        number = self.ring.number + 1
        if self.ring.is_open:
            try:
                self.ring.append(sample)
            except (OSError, ValueError) as error:
                self.ring_problem = f"the ring in {self.ring.path.parent} cannot be written: {error}"
                self.ring.close(clean=False)
        self.ring.number = number
        self._count(number, sample)
        self.latest = sample

    def _sample(self, facts: Facts) -> Sample:
        columns = self.watch.look(facts.pids)
        boot_ns, before = time.clock_gettime_ns(time.CLOCK_BOOTTIME), self.latest
        for name, counted in facts.counted.items():
            add(columns.setdefault(name, {}), {key: self._since(name, key, count) for key, count in counted.items()})
        for name, count in facts.restarts.items():
            add(columns.setdefault(name, {}), {"restarts": self._since(name, "restarts", count)})
        for name, took in facts.answer_us.items():
            columns.setdefault(name, {})["answer_us"] = took
        states = {CORE: "running", ZYGOTE: "running", **facts.states}
        names = sorted(columns.keys() | facts.states.keys())
        self._forget(names)
        return Sample(
            boot_ns=boot_ns,
            wall_ns=time.time_ns(),
            span_ms=max((boot_ns - before.boot_ns) // 1_000_000, 1) if before else 0,
            rows=[row(name, states.get(name, "gone"), **columns.get(name, {})) for name in names],
        )

    def _since(self, name: str, key: str, count: int) -> int:
        """Return what was added to a count; one that is less than before has begun anew."""
        before = self._before.get((name, key), 0)
        self._before[name, key] = count
        return count - before if count >= before else count

    def _forget(self, names: list[str]) -> None:
        there = set(names)
        for pair in [pair for pair in self._before if pair[0] not in there]:
            del self._before[pair]

    def to_write(self) -> tuple[list[Fold], Totals]:
        """Return what is to be written, as it is now. Not while `look` runs."""
        return list(self.pending), msgspec.msgpack.decode(msgspec.msgpack.encode(self.totals), type=Totals)

    def write(self, folds: list[Fold], totals: Totals, *, end: bool = False) -> bool:
        """Write to disk; return whether it could be."""
        try:
            self.store.write(folds, totals, end=end)
        except OSError as error:
            self.disk_problem = f"{self.store.folder} cannot be written: {error.strerror}"
            return False
        self.disk_problem = ""
        return True

    def written(self, folds: list[Fold]) -> None:
        """Forget what is on disk now. Not while `look` runs."""
        done = set(map(id, folds))
        self.pending = [fold for fold in self.pending if id(fold) not in done]

    def close(self, *, ordered: bool) -> None:
        """Write what there is and close; *ordered* if the daemon ends by its own orders."""
        if (rest := self.minute.end()) is not None:
            self.pending.append(rest)
        folds, totals = self.to_write()
        self.write(folds, totals, end=ordered)
        self.ring.close(clean=ordered)
        self.watch.close()


def new_flight(runtime: Path, state: Path, *, zygote: int, ring_bytes: int, disk_max_bytes: int) -> Flight:
    """Return the recorder of this process and of what *zygote* forks. Raises OSError without /proc."""
    boot = boot_id()
    return Flight(
        ring=RingWriter(runtime / "recorder" / RING, size_bytes=ring_bytes, boot_id=boot),
        store=FoldStore(state / "recorder", max_bytes=disk_max_bytes),
        watch=Watch(core=os.getpid(), zygote=zygote),
        boot=boot,
        minute=Minute(boot),
    )


def _when(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(wall_ns / 1e9))
