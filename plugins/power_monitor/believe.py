"""What of a source's readings is believed: plain rules, the same for every source. Pure.

Two rules. A value outside what is possible is dropped, and the rest of its reading kept. A change that something would
be done about (the mains come or go, the battery is said to be empty, its charge jumps) is believed when the source has
said it twice in a row: a single damaged answer never changes a mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from sparkd import PowerReading

LIMITS: dict[str, tuple[float, float]] = {
    "supply_volts": (0.0, 1_000.0),
    "load_volts": (0.0, 1_000.0),
    "load_amps": (-0.5, 1_000.0),
    "load_watts": (-5.0, 100_000.0),
    "battery_volts": (0.5, 1_000.0),
    "battery_amps": (-1_000.0, 1_000.0),
    "battery_watts": (-100_000.0, 100_000.0),
    "charge_percent": (0.0, 110.0),
    "capacity_wh": (0.01, 1_000_000.0),
    "time_to_empty_s": (0.0, 30 * 86_400.0),
    "solar_watts": (-5.0, 100_000.0),
    "grid_watts": (-100_000.0, 100_000.0),
    "temperature_c": (-50.0, 120.0),
}
"""From the smallest gauge to a house's battery. Meters show a little below nothing around zero, and gauges learn their
battery: they may say up to 110 % for a while."""
JUMPS = {"charge_percent": 10.0, "battery_volts": 5.0, "time_to_empty_s": math.inf}
"""A change from one reading to the next beyond which a value must be said twice."""
AGREE = {"charge_percent": 5.0, "battery_volts": 1.0, "time_to_empty_s": math.inf}
"""How near the second must be to the first."""
FLAGS = ("mains", "battery_low", "shutdown")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is believed of a reading, and why not all of it if not."""

    reading: PowerReading
    doubts: tuple[str, ...] = ()


@dataclass(slots=True)
class Judge:
    """Remembers what one source said, to know a change from a slip. One per source and connection."""

    _believed: PowerReading | None = None
    _doubted: dict[str, object] = field(default_factory=dict)
    """By field, what was said once."""

    def hear(self, reading: PowerReading) -> Verdict:
        """Return what is believed of *reading*."""
        possible, doubts = _possible(reading)
        kept = self._confirmed(possible, doubts)
        self._believed = kept
        return Verdict(kept, tuple(doubts))

    def _confirmed(self, reading: PowerReading, doubts: list[str]) -> PowerReading:
        before = self._believed
        if before is None:
            return reading
        instead: dict[str, Any] = {}
        for name in (*FLAGS, *JUMPS):
            said, was = getattr(reading, name), getattr(before, name)
            if not _leaps(name, was, said) or _same(name, self._doubted.get(name), said):
                self._doubted.pop(name, None)
                continue
            self._doubted[name] = said
            instead[name] = was
            if name in JUMPS:
                doubts.append(f"{name}: {said:g} after {was:g}: believed if it is said again")
        return replace(reading, **instead) if instead else reading


def _leaps(name: str, was: object, said: object) -> bool:
    """Whether a change from *was* to *said* must be said twice. What is not known may come and go."""
    if was is None or said is None or was == said:
        return False
    if isinstance(was, bool) or isinstance(said, bool):
        return True
    return isinstance(was, float | int) and isinstance(said, float | int) and abs(said - was) > JUMPS[name]


def _same(name: str, before: object, said: object) -> bool:
    if isinstance(before, bool) or isinstance(said, bool):
        return before is said
    return isinstance(before, float | int) and isinstance(said, float | int) and abs(said - before) <= AGREE[name]


def _possible(reading: PowerReading) -> tuple[PowerReading, list[str]]:
    doubts: list[str] = []
    instead: dict[str, Any] = {}
    for name, (low, high) in LIMITS.items():
        value = getattr(reading, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
            doubts.append(f"{name}: a number expected, got {value!r}")
        elif not low <= value <= high:
            doubts.append(f"{name}: between {low:g} and {high:g} expected, got {value:g}")
        else:
            instead |= _tidy(name, float(value))
            continue
        instead[name] = None
    for name in FLAGS:
        said = getattr(reading, name)
        if said is True or said is False or (said is None and name == "mains"):
            continue
        doubts.append(f"{name}: true or false expected, got {said!r}")
        instead[name] = None if name == "mains" else False
    return replace(reading, **instead), doubts


def _tidy(name: str, value: float) -> dict[str, Any]:
    if name == "charge_percent":
        return {name: min(value, 100.0)}
    if name in ("load_amps", "load_watts", "solar_watts"):
        return {name: max(value, 0.0)}
    return {name: value}
