"""From what was recorded to a curve: the points of one metric of one service. Blocks: it reads files.

What the ring holds is taken from it, second by second; before that, the minutes on disk. The same reading serves a
running daemon and a dead one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from sparkd.recorder.fold import Fold
from sparkd.recorder.proc import boot_id
from sparkd.recorder.ring import Ring, read_ring
from sparkd.recorder.sample import COUNTERS, GAUGES, MEANING, Sample
from sparkd.recorder.store import read_folds

RING = "ring"
LAST_CRASH = "last-crash"
METRICS = {
    "cpu": "percent of one processor",
    "sent": "bytes a second sent: link and tcp",
    **{name: MEANING[name] for name in GAUGES},
    **{name: f"{MEANING[name]}; a second" for name in COUNTERS if name != "cpu_us"},
}
"""What can be asked for."""
MAX_POINTS = 2000
POINTS = 300
"""If no step is asked for."""
SECOND_HOLE_S, MINUTE_HOLE_S = 3.0, 150.0
"""From a sample, or a minute, to what follows: more is a hole."""
MAX_HOLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One step of a curve."""

    at: float
    """Wall clock at its end, as it is set now."""
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A curve. Counters are per second."""

    service: str
    metric: str
    meaning: str
    step_s: float
    points: list[Point] = field(default_factory=list)
    holes: list[list[float]] = field(default_factory=list)
    """From and to, wall clock: nothing was recorded."""


class _Value(msgspec.Struct, frozen=True, gc=False):
    at: float
    low: float
    mean: float
    high: float
    hole_s: float


class Recorded:
    """The files of a node's recorder."""

    def __init__(self, runtime: Path, state: Path, *, last_crash: bool = False) -> None:
        """Read from the `recorder` folders below *runtime* and *state*; *last_crash*: only the ring kept aside."""
        self._last_crash = last_crash
        self.ring_folder, self.disk = runtime / "recorder", state / "recorder"
        self._boot = boot_id()

    def ring(self) -> Ring | None:
        """Return the ring; None if there is none."""
        try:
            return read_ring(self.ring_folder / (LAST_CRASH if self._last_crash else RING))
        except (OSError, ValueError):
            return None

    def names(self) -> set[str]:
        """Return the services of which anything is held: of the ring, else of the newest minutes."""
        ring = self.ring()
        found = {row.name for _, sample in ring.samples() for row in sample.rows} if ring else set[str]()
        return found or {row.name for fold in read_folds(self.disk) for row in fold.rows}

    def history(self, service: str, metric: str, *, since_s: float, step_s: float = 0.0) -> History:
        """Return *metric* of *service* over the last *since_s* seconds, in steps of *step_s* or some that fit.

        Raises ValueError for a metric that is not in `METRICS`.
        """
        if metric not in METRICS:
            raise ValueError(f"there is no metric {metric!r}; there are: {', '.join(METRICS)}")
        begin = time.time() - since_s
        values = [value for value in self._values(service, metric, begin) if value.at >= begin]
        step = max(step_s or since_s / POINTS, 1.0, since_s / MAX_POINTS)
        return History(
            service=service,
            metric=metric,
            meaning=METRICS[metric],
            step_s=step,
            points=list(_stepped(values, step)),
            holes=[[round(a.at, 3), round(b.at, 3)] for a, b in pairwise(values) if b.at - a.at > a.hole_s][
                -MAX_HOLES:
            ],
        )

    def _values(self, service: str, metric: str, begin: float) -> Iterator[_Value]:
        ring = self.ring()
        entries, boot = (ring.entries, ring.boot_id) if ring else ([], "")
        for fold in () if self._last_crash else read_folds(self.disk, since=begin):
            if not (entries and fold.boot == boot and fold.number >= entries[0].number):
                yield from _of_fold(fold, service, metric, self._wall(fold, fold.boot))
        for _, sample in ring.samples() if ring else ():
            yield from _of_sample(sample, service, metric, self._wall(sample, boot))

    def _wall(self, recorded: Sample | Fold, boot: str) -> float:
        """Return when that was by the wall clock as it is now; of another boot only what it said then is known."""
        if boot == self._boot:
            return time.time() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - recorded.boot_ns) / 1e9
        return recorded.wall_ns / 1e9


def _of_sample(sample: Sample, service: str, metric: str, at: float) -> Iterator[_Value]:
    for row in sample.rows:
        if row.name == service and (sample.span_ms or metric in GAUGES):
            if metric in GAUGES:
                value = float(row.value(metric))
            else:
                value = _scaled(metric, sum(map(row.value, _parts(metric))), sample.span_ms)
            yield _Value(at, value, value, value, SECOND_HOLE_S)


def _of_fold(fold: Fold, service: str, metric: str, at: float) -> Iterator[_Value]:
    for row in fold.rows:
        if row.name != service:
            continue
        if metric in GAUGES:
            low, middle, high = row.gauge(metric)
            yield _Value(at, low, middle, high, MINUTE_HOLE_S)
        elif row.seconds_ms:
            parts = [row.counter(part) for part in _parts(metric)]
            mean = _scaled(metric, sum(part[0] for part in parts), row.seconds_ms)
            yield _Value(at, 0.0, mean, max(mean, _scaled(metric, sum(part[1] for part in parts), 1000)), MINUTE_HOLE_S)


def _parts(metric: str) -> tuple[str, ...]:
    return {"cpu": ("cpu_us",), "sent": ("link", "tcp")}.get(metric, (metric,))


def _scaled(metric: str, amount: float, span_ms: int) -> float:
    """Return *amount* as a rate a second; processor time as percent."""
    rate = amount * 1000 / span_ms
    return rate / 10_000 if metric == "cpu" else rate


def _stepped(values: list[_Value], step_s: float) -> Iterator[Point]:
    """Yield a point for each step that has values."""
    bucket: list[_Value] = []
    for value in values:
        if bucket and value.at // step_s != bucket[0].at // step_s:
            yield _point(bucket)
            bucket = []
        bucket.append(value)
    if bucket:
        yield _point(bucket)


def _point(bucket: list[_Value]) -> Point:
    return Point(
        at=round(bucket[-1].at, 3),
        low=round(min(value.low for value in bucket), 3),
        mean=round(sum(value.mean for value in bucket) / len(bucket), 3),
        high=round(max(value.high for value in bucket), 3),
    )
