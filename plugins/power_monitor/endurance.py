"""How long the battery lasts, with how sure that is. Pure.

By the charge's own fall: a straight line through what was seen since the mains went (least squares), whose slope has a
standard error; 1.645 of them on either side hold nine chances in ten (normal distribution). Before the line is long
enough: capacity times charge by the load, whose spread in the same time is the spread of the answer. Where the source
reckons itself, its figure is the one told, and the span is widened to hold it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import sqrt

from sparkd import TimeToEmpty

from .choose import Picture

WINDOW_S = 1800.0
"""Older points tell of another load."""
MAX_POINTS = 2000
RISE_PERCENT = 3.0
"""More than gauges swing from one reading to the next."""
MIN_SPAN_S, MIN_FALL_PERCENT, MIN_POINTS = 60.0, 1.0, 5
"""Gauges tell steps of a percent or less: a line through less is through noise."""
SPREAD = 1.645
UNSURE = 0.3
"""Of a source's own figure that nothing can be held against: drivers of UPSs and gauges are off by about so much
when the load changes."""
MIN_RATE = 1e-6
LONGEST_S = 30 * 86_400.0


@dataclass(slots=True)
class Endurance:
    """Remembers the fall of the charge since the mains went."""

    _points: deque[tuple[float, float, float | None]] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    """Time, charge in percent, load in watts."""

    def hear(self, picture: Picture, now: float) -> None:
        """Take what is known at *now* (monotonic seconds)."""
        if picture.mains is not False:
            self._points.clear()
            return
        percent = picture.value("charge_percent")
        if percent is None:
            return
        if self._points and percent > self._points[-1][1] + RISE_PERCENT:
            self._points.clear()  # it is being charged, by the sun perhaps
        self._points.append((now, percent, load_watts(picture)))
        while self._points and now - self._points[0][0] > WINDOW_S:
            self._points.popleft()

    def estimate(self, picture: Picture) -> TimeToEmpty | None:
        """Return how long it lasts; None while the mains are there, or if nothing tells."""
        if picture.mains is not False:
            return None
        spans = [span for span in (self._by_fall(), self._by_load(picture)) if span is not None]
        measured = picture.values.get("time_to_empty_s")
        if measured is not None:
            own = measured.value
            low, high = (spans[0][1], spans[0][2]) if spans else (own * (1 - UNSURE), own * (1 + UNSURE))
            return TimeToEmpty(
                seconds=own, low_seconds=min(own, low), high_seconds=max(own, high), source=measured.source
            )
        if not spans:
            return None
        seconds, low, high = spans[0]
        return TimeToEmpty(seconds=seconds, low_seconds=low, high_seconds=high, source="model")

    def _by_fall(self) -> tuple[float, float, float] | None:
        points = [(at, percent) for at, percent, _ in self._points]
        if len(points) < MIN_POINTS or points[-1][0] - points[0][0] < MIN_SPAN_S:
            return None
        count = len(points)
        mean_t = sum(at for at, _ in points) / count
        mean_p = sum(percent for _, percent in points) / count
        spread_t = sum((at - mean_t) ** 2 for at, _ in points)
        slope = sum((at - mean_t) * (percent - mean_p) for at, percent in points) / spread_t
        if -slope * (points[-1][0] - points[0][0]) < MIN_FALL_PERCENT:
            return None
        left = sum((percent - mean_p - slope * (at - mean_t)) ** 2 for at, percent in points)
        error = SPREAD * sqrt(left / (count - 2) / spread_t)
        percent = points[-1][1]
        return _span(percent, -slope, error)

    def _by_load(self, picture: Picture) -> tuple[float, float, float] | None:
        capacity, percent, watts = picture.value("capacity_wh"), picture.value("charge_percent"), load_watts(picture)
        if capacity is None or percent is None or watts is None or watts <= 0:
            return None
        loads = [load for _, _, load in self._points if load is not None] or [watts]
        mean = sum(loads) / len(loads)
        spread = sqrt(sum((load - mean) ** 2 for load in loads) / len(loads))
        return _span(capacity * percent / 100 * 3600, max(mean, MIN_RATE), max(SPREAD * spread, 0.1 * mean))


def _span(left: float, rate: float, error: float) -> tuple[float, float, float]:
    """Return the time until *left* is gone at *rate* a second, and at a rate of *error* more and less."""
    slow = max(rate - error, MIN_RATE)
    return min(left / rate, LONGEST_S), min(left / (rate + error), LONGEST_S), min(left / slow, LONGEST_S)


def load_watts(picture: Picture) -> float | None:
    """Return what is used: measured, by volts and amps, or what the battery gives."""
    watts = picture.value("load_watts")
    if watts is not None:
        return watts
    volts, amps = picture.value("load_volts"), picture.value("load_amps")
    if volts is not None and amps is not None:
        return volts * amps
    battery = picture.value("battery_watts")
    if battery is not None and battery < 0 and picture.mains is False:
        return -battery
    return None
