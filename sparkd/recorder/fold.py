"""Samples folded into minutes, and what each service has used in all: pure.

A minute is one by the boot clock, so that a step of the wall clock neither stretches nor repeats it. A gauge keeps its
least, mean and greatest value, a counter its sum and the most of one sample.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sparkd.recorder.sample import COLUMNS, COUNTERS, GAUGES, Row, Sample

MINUTE_NS = 60_000_000_000
DAY_S = 86_400
MAX_SERVICES = 256
"""Totals are kept of so many names; beyond them the least used are added up under `OTHERS`."""
OTHERS = "(others)"
COUNTED = ("cpu_us", "write", "link", "tcp", "published_bytes")
"""The counters that have totals."""


class FoldRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One service in one minute."""

    name: str
    state: str
    """At the end of it."""
    seconds_ms: int
    """How much of the minute was looked at."""
    gauges: list[list[int]]
    """Least, mean and greatest of each of `GAUGES`."""
    counters: list[list[int]]
    """Sum, and the most in a second, of each of `COUNTERS`."""

    def gauge(self, name: str) -> list[int]:
        """Return least, mean and greatest; zeros if the row is older than the column."""
        at = GAUGES.index(name)
        return self.gauges[at] if at < len(self.gauges) else [0, 0, 0]

    def counter(self, name: str) -> list[int]:
        """Return sum, and most in a second; zeros if the row is older than the column."""
        at = COUNTERS.index(name)
        return self.counters[at] if at < len(self.counters) else [0, 0]


class Fold(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One minute."""

    boot: str
    """The machine's boot id."""
    boot_ns: int
    """Of its last sample."""
    wall_ns: int
    number: int
    """Of its last sample in the ring."""
    rows: list[FoldRow]


class Used(msgspec.Struct, array_like=True, gc=False):
    """What one service has used: in the order of `COUNTED`."""

    ever: list[int]
    today: list[int]


class Totals(msgspec.Struct, array_like=True, gc=False):
    """What every service has used, since the recorder first ran and today."""

    since: float
    """Wall clock."""
    day: int
    """Days since 1970, UTC."""
    number: int
    """Of the last sample that is in it."""
    boot: str
    services: dict[str, Used]

    def begin_day(self, wall_s: float) -> None:
        """Begin a new day if it is one. A clock that is set back by less than a day does not begin one again."""
        day = int(wall_s // DAY_S)
        if day > self.day or day < self.day - 1:
            self.day = day
            for used in self.services.values():
                used.today = [0] * len(COUNTED)

    def add(self, rows: Iterable[Row]) -> None:
        """Count a sample."""
        for row in rows:
            amounts = [row.value(column) for column in COUNTED]
            used = self.services.get(row.name)
            if used is None:
                if not any(amounts):
                    continue
                self._make_room()
                used = self.services[row.name] = Used([0] * len(COUNTED), [0] * len(COUNTED))
            for at, amount in enumerate(amounts):
                used.ever[at] += amount
                used.today[at] += amount

    def _make_room(self) -> None:
        if len(self.services) < MAX_SERVICES - 1:  # one is for the others
            return
        least = min((name for name in self.services if name != OTHERS), key=lambda name: sum(self.services[name].ever))
        gone = self.services.pop(least)
        others = self.services.setdefault(OTHERS, Used([0] * len(COUNTED), [0] * len(COUNTED)))
        others.ever = [a + b for a, b in zip(others.ever, gone.ever, strict=True)]
        others.today = [a + b for a, b in zip(others.today, gone.today, strict=True)]


def no_totals(wall_s: float) -> Totals:
    """Return totals of nothing, as of now."""
    return Totals(since=wall_s, day=int(wall_s // DAY_S), number=0, boot="", services={})


class Minute:
    """The samples of a minute that is not over."""

    def __init__(self, boot: str) -> None:
        """Fold samples of the boot *boot*."""
        self._boot = boot
        self._rows: dict[str, _Growing] = {}
        self._last: tuple[int, Sample] | None = None

    def add(self, number: int, sample: Sample) -> Fold | None:
        """Take a sample; return the minute before, if this one begins another."""
        done = None
        if self._last is not None and self._last[1].boot_ns // MINUTE_NS != sample.boot_ns // MINUTE_NS:
            done = self.end()
        for row in sample.rows:
            self._rows.setdefault(row.name, _Growing()).add(row, sample.span_ms)
        self._last = (number, sample)
        return done

    def end(self) -> Fold | None:
        """Return what there is of the minute, and begin another."""
        if self._last is None:
            return None
        number, last = self._last
        rows = [growing.fold(name) for name, growing in self._rows.items()]
        self._rows, self._last = {}, None
        return Fold(self._boot, last.boot_ns, last.wall_ns, number, rows)


class _Growing:
    def __init__(self) -> None:
        self._state, self._samples, self._ms = "", 0, 0
        self._gauges = [[1 << 63, 0, 0] for _ in GAUGES]
        self._counters = [[0, 0] for _ in COUNTERS]

    def add(self, row: Row, span_ms: int) -> None:
        self._state = row.state
        self._samples += 1
        self._ms += span_ms
        values = row.values + [0] * (len(COLUMNS) - len(row.values))  # one of an older sparkd may be shorter
        for held, value in zip(self._gauges, values, strict=False):
            held[:] = min(held[0], value), held[1] + value, max(held[2], value)
        for sums, value in zip(self._counters, values[len(GAUGES) :], strict=False):
            if value:
                sums[0] += value
                sums[1] = max(sums[1], value * 1000 // span_ms if span_ms else value)

    def fold(self, name: str) -> FoldRow:
        gauges = [[low, summed // self._samples, high] for low, summed, high in self._gauges]
        return FoldRow(name, self._state, self._ms, gauges, self._counters)
