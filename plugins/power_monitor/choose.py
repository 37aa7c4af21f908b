"""One picture from several sources, by a stated rule. Pure.

The rule: of each quantity the value of the first source in the configured order that is live and knows it. One that
has been silent for longer than it may is stale, and counts as knowing nothing; its last values are shown and not used.
Where a source further back says something else, that is a conflict: it is shown, and changes nothing. Two things count
from whichever live source says them, because the harm of not hearing is greater: that the power will be cut, and, while
nothing says that the mains are there, that the battery is nearly empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparkd import Measured, PowerReading

QUANTITIES = (
    "supply_volts",
    "load_volts",
    "load_amps",
    "load_watts",
    "battery_volts",
    "battery_amps",
    "battery_watts",
    "charge_percent",
    "capacity_wh",
    "time_to_empty_s",
    "solar_watts",
    "grid_watts",
    "temperature_c",
)
APART = {"charge_percent": 20.0, "supply_volts": 25.0}
"""Sources that are further apart than this about the same thing are in conflict. Loads and batteries may differ: each
source may watch another one."""
GIVES_W, GIVES_A = 1.0, 0.1
"""A battery that gives more than this carries the load; less is the meter's own offset."""
GRID_W = 5.0


@dataclass(frozen=True, slots=True)
class Held:
    """A source's last believed reading, and when it came (monotonic seconds)."""

    reading: PowerReading
    at: float
    stale_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is known of this node's power."""

    values: Mapping[str, Measured] = field(default_factory=dict)
    mains: bool | None = None
    mains_by: str = ""
    """The source that says so, with how if it is inferred."""
    battery_low: str = ""
    """The source that says that its battery is nearly empty."""
    ending: str = ""
    """The source that says that it will cut the power."""
    conflicts: tuple[str, ...] = ()

    def value(self, name: str) -> float | None:
        """Return the chosen value of *name*; None if nobody knows."""
        measured = self.values.get(name)
        return None if measured is None else measured.value


def live(held: Mapping[str, Held], now: float) -> dict[str, PowerReading]:
    """Return the readings that count."""
    return {name: one.reading for name, one in held.items() if now - one.at <= one.stale_after_s}


def ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return *names* with those of *order* first; the others keep the order they have."""
    return [*(name for name in order if name in names), *(name for name in names if name not in order)]


def choose(held: Mapping[str, Held], order: Sequence[str], now: float) -> Picture:
    """Return the picture that the live sources of *held* give, by the rule above."""
    readings = live(held, now)
    names = ordered(list(readings), order)
    conflicts: list[str] = []
    values: dict[str, Measured] = {}
    for quantity in QUANTITIES:
        knowing = [(name, getattr(readings[name], quantity)) for name in names]
        knowing = [(name, value) for name, value in knowing if value is not None]
        if knowing:
            values[quantity] = Measured(value=knowing[0][1], source=knowing[0][0])
            conflicts += _apart(quantity, knowing)
    mains, by = _mains(readings, names, conflicts)
    low = next((name for name in names if readings[name].battery_low), "") if mains is not True else ""
    ending = next((name for name in names if readings[name].shutdown), "")
    return Picture(values=values, mains=mains, mains_by=by, battery_low=low, ending=ending, conflicts=tuple(conflicts))


def _apart(quantity: str, knowing: Sequence[tuple[str, float]]) -> list[str]:
    limit = APART.get(quantity)
    first, value = knowing[0]
    if limit is None:
        return []
    return [
        f"{quantity}: {name} says {other:g}, {first} says {value:g}, which counts"
        for name, other in knowing[1:]
        if abs(other - value) > limit
    ]


def _mains(readings: Mapping[str, PowerReading], names: Sequence[str], conflicts: list[str]) -> tuple[bool | None, str]:
    said = [(name, readings[name].mains) for name in names if readings[name].mains is not None]
    if said:
        first, mains = said[0]
        for name, other in said[1:]:
            if other is not mains:
                conflicts.append(f"mains: {name} says {_word(other)}, {first} says {_word(mains)}, which counts")
        return mains, first
    for name in names:
        inferred = _inferred(readings[name])
        if inferred is not None:
            return inferred, f"{name}, by its battery" if readings[name].grid_watts is None else name
    return None, ""


def _word(mains: bool | None) -> str:  # noqa: FBT001 - one value, said in a sentence
    return "there" if mains else "lost"


def _inferred(reading: PowerReading) -> bool | None:
    """Return whether the mains are there by what flows; None if that does not tell.

    What draws from the grid is fed by it. A battery that gives carries the load. One that takes, without a sun that is
    known of, takes from the mains.
    """
    if reading.grid_watts is not None and reading.grid_watts > GRID_W:
        return True
    watts, amps = reading.battery_watts, reading.battery_amps
    if (watts is not None and watts < -GIVES_W) or (watts is None and amps is not None and amps < -GIVES_A):
        return False
    takes = (watts is not None and watts > GIVES_W) or (watts is None and amps is not None and amps > GIVES_A)
    return True if takes and reading.solar_watts is None else None
