"""What is looked at all through a chaos run: processes, memory, descriptors, records, files."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import statistics
import time
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.testing.chaos.rig import Kept, Rig, left_behind
from sparkd.testing.node import descendants

SETTLED_S = 20.0
"""A process younger than this is still growing into its size."""
GROWTH_BYTES, GROWTH_SHARE, GROWTH_FDS = 3 << 20, 0.10, 6
"""What the median of the last third of a life may be above that of the first third: the larger of the first two."""
LEAST_SAMPLES = 30
COURSE_POINTS = 40
ORPHAN_GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at one process."""

    seconds: float
    pid: int
    own: int
    """Bytes of memory that no file holds: a leak shows here, and unlike the PSS no other process changes it."""
    pss: int
    rss: int
    fds: int


@dataclass
class Records:
    """What has arrived in the cloud, by number; read on from where it was."""

    database: Path
    seen: Counter[int] = field(default_factory=Counter)
    strange: int = 0
    doubled: int = 0
    """Rows that the sink itself refused because it had them."""
    _rowid: int = 0

    def look(self) -> None:
        """Read the rows that are new."""
        if not self.database.exists():
            return
        query = "SELECT rowid, sensor, value FROM sensor_data WHERE rowid > ? ORDER BY rowid"
        with (
            contextlib.suppress(sqlite3.OperationalError),  # not made yet, or its disk is full
            closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as db,
        ):
            for rowid, sensor, value in db.execute(query, (self._rowid,)):
                self._rowid = rowid
                self.strange += sensor != "chaos" or value != int(value)
                self.seen[int(value)] += 1
            self.doubled = db.execute("SELECT count(*) FROM doubled").fetchone()[0]

    def missing(self, acknowledged: int) -> list[int]:
        """Return the numbers that were acknowledged and are not there."""
        return [number for number in range(1, acknowledged + 1) if number not in self.seen]

    def repeated(self) -> list[int]:
        """Return the numbers that are there more than once."""
        return [number for number, times in self.seen.items() if times > 1]


@dataclass
class Watch:
    """The looks at a rig."""

    rig: Rig
    records: Records
    samples: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """By process: `edge core`, `edge zygote`, `cloud stream-sink`."""
    orphans: list[str] = field(default_factory=list)
    _suspects: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """Take one sample of everything."""
        for kept in self.rig.nodes:
            for role, pid in _processes(kept).items():
                with contextlib.suppress(OSError):  # gone since it was listed
                    self.samples[f"{kept.side} {role}"].append(_sample(pid, time.monotonic() - self.rig.begun))
        self.records.look()
        self._look_for_orphans()

    def _look_for_orphans(self) -> None:
        found, now = left_behind(self.rig.tag), time.monotonic()
        kept_alive = {pid for kept in self.rig.nodes for pid in (kept.pid, *descendants(kept.pid))}
        self._suspects = {pid: self._suspects.get(pid, now) for pid in found.keys() - kept_alive}
        for pid, since in self._suspects.items():
            if now - since > ORPHAN_GRACE_S:
                self.orphans.append(f"{pid} {found[pid]}")

    def growth(self) -> dict[str, dict[str, object]]:
        """Return for each process how its memory and descriptors went, and whether they stayed flat."""
        return {role: growth(samples) for role, samples in sorted(self.samples.items())}


def names_in(folder: Path) -> Counter[str]:
    """Return how many files of each kind are beneath *folder*: numbers and random names are made alike."""
    names: Counter[str] = Counter()
    for parent, _, files in os.walk(folder):
        for file in files:
            names[re.sub(r"[0-9a-f]{6,}|\d+", "#", str((Path(parent) / file).relative_to(folder)))] += 1
    return names


def _processes(kept: Kept) -> dict[str, int]:
    found = {"core": kept.pid}
    zygote = kept.zygote()
    if zygote is not None:
        found["zygote"] = zygote
    return found | {name: s["pid"] for name, s in kept.services().items() if s["pid"] and s["state"] == "running"}


def _sample(pid: int, seconds: float) -> Sample:
    folder = Path(f"/proc/{pid}")
    fields = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split()[0].rstrip(":"): int(line.split()[1]) << 10 for line in fields}
    status = dict(line.split(":", 1) for line in (folder / "status").read_text(encoding="ascii").splitlines())
    own = sum(int(status[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
    return Sample(seconds, pid, own, sizes["Pss"], sizes["Rss"], len(list((folder / "fd").iterdir())))


def _longest_life(samples: list[Sample]) -> list[Sample]:
    """Return the samples of the process that lived the longest, once it has settled.

    Not of all: with young processes at the end of a run a leak would not show, with young ones at its begin one would
    where there is none.
    """
    lives: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.pid].append(sample)
    longest = max(lives.values(), key=lambda life: life[-1].seconds - life[0].seconds, default=[])
    return [sample for sample in longest if sample.seconds - longest[0].seconds >= SETTLED_S]


def growth(samples: list[Sample]) -> dict[str, object]:
    """Return how memory and descriptors of one role went in the longest life of it, and whether they stayed flat."""
    settled = _longest_life(samples)
    if len(settled) < LEAST_SAMPLES:
        return {"samples": len(settled), "flat": True, "judged": False}
    third = len(settled) // 3
    lived_s = round(settled[-1].seconds - settled[0].seconds, 1)
    result: dict[str, object] = {"samples": len(settled), "lived_s": lived_s, "judged": True}
    flat = True
    for what in ("own", "pss", "rss", "fds"):
        values = [getattr(sample, what) for sample in settled]
        first, last = statistics.median(values[:third]), statistics.median(values[-third:])
        room = GROWTH_FDS if what == "fds" else max(GROWTH_BYTES, GROWTH_SHARE * first)
        flat = flat and (what in ("pss", "rss") or last - first <= room)  # shared pages move these two; told only
        course = values[:: max(len(values) // COURSE_POINTS, 1)]  # tells a climb that ends from one that does not
        slope = _slope(settled, values)
        result[what] = {"first": first, "last": last, "most": max(values), "per_hour": slope, "course": course}
    return result | {"flat": flat}


def _slope(samples: list[Sample], values: list[float]) -> float:
    """Return by how much *values* grow in an hour, by least squares."""
    return round(statistics.linear_regression([s.seconds for s in samples], values).slope * 3600, 1)
