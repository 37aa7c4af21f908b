"""From what was recorded to a curve: the points of one metric of one service. Blocks: it reads files.

What the ring holds is taken from it, second by second, if all that is asked for lies in it; else the minutes on disk
are taken, and the ring for what came after the last of them. The same reading serves a running daemon and a dead one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sparkd.recorder.fold import Fold, Minute
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
HOLE_S = {"ring": 5.0, "minutes": 150.0}
"""From a sample, or a minute, to the next: more is a hole."""


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
    source: str
    """`ring`, seconds from memory, or `minutes`, from disk."""
    points: list[Point] = field(default_factory=list)
    holes: list[list[float]] = field(default_factory=list)
    """From and to, wall clock: nothing was recorded."""


class _Value(msgspec.Struct, frozen=True, gc=False):
    at: float
    low: float
    mean: float
    high: float


class Recorded:
    """The files of a node's recorder."""

    def __init__(self, runtime: Path, state: Path) -> None:
        """Read from the `recorder` folders below *runtime* and *state*."""
        self.ring_folder, self.disk = runtime / "recorder", state / "recorder"
        self._boot = boot_id()

    def ring(self, name: str = RING) -> Ring | None:
        """Return the ring; None if there is none."""
        try:
            return read_ring(self.ring_folder / name)
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
        ring = self.ring()
        samples = ring.samples() if ring else []
        begin = time.time() - since_s
        boot = ring.boot_id if ring else ""
        if samples and self._wall(samples[0][1], boot) <= begin:
            values, source = _of_samples(samples, service, metric, lambda s: self._wall(s, boot)), "ring"
        else:
            values, source = self._of_minutes(samples, boot, service, metric), "minutes"
        held = [value for value in values if value.at >= begin]
        least = max(1.0 if source == "ring" else 60.0, since_s / MAX_POINTS)
        step = max(step_s or since_s / POINTS, least)
        return History(
            service=service,
            metric=metric,
            meaning=METRICS[metric],
            step_s=step,
            source=source,
            points=list(_stepped(held, step)),
            holes=_holes(held, HOLE_S[source]),
        )

    def _of_minutes(self, samples: list[tuple[int, Sample]], boot: str, service: str, metric: str) -> Iterator[_Value]:
        last = 0
        for fold in read_folds(self.disk):
            if fold.boot == boot:
                last = max(last, fold.number)
            yield from _of_fold(fold, service, metric, self._wall(fold, fold.boot))
        minute = Minute(boot)
        for fold in _folded(minute, [pair for pair in samples if pair[0] > last]):
            yield from _of_fold(fold, service, metric, self._wall(fold, boot))

    def _wall(self, recorded: Sample | Fold, boot: str) -> float:
        """Return when that was by the wall clock as it is now; of another boot only what it said then is known."""
        if boot == self._boot:
            return time.time() - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - recorded.boot_ns) / 1e9
        return recorded.wall_ns / 1e9


def _folded(minute: Minute, samples: Iterable[tuple[int, Sample]]) -> Iterator[Fold]:
    for number, sample in samples:
        if (done := minute.add(number, sample)) is not None:
            yield done
    if (rest := minute.end()) is not None:
        yield rest


def _of_samples(samples: list[tuple[int, Sample]], service: str, metric: str, wall: Callable[[Sample], float]) -> Iterator[_Value]:
    for _, sample in samples:
        for row in sample.rows:
            if row.name == service and (sample.span_ms or metric in GAUGES):
                if metric in GAUGES:
                    value = float(row.value(metric))
                else:
                    value = _scaled(metric, sum(map(row.value, _parts(metric))), sample.span_ms)
                yield _Value(wall(sample), value, value, value)


def _of_fold(fold: Fold, service: str, metric: str, at: float) -> Iterator[_Value]:
    for row in fold.rows:
        if row.name != service:
            continue
        if metric in GAUGES:
            low, mean, high = row.gauge(metric)
            yield _Value(at, low, mean, high)
        elif row.seconds_ms:
            parts = [row.counter(part) for part in _parts(metric)]
            mean = _scaled(metric, sum(part[0] for part in parts), row.seconds_ms)
            yield _Value(at, 0.0, mean, max(mean, _scaled(metric, sum(part[1] for part in parts), 1000)))


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


def _holes(values: list[_Value], longest_s: float) -> list[list[float]]:
    pairs = zip(values, values[1:], strict=False)
    return [[round(a.at, 3), round(b.at, 3)] for a, b in pairs if b.at - a.at > longest_s][-MAX_POINTS:]

