"""The power mode of a node: a table of what follows what, with hysteresis and debouncing. Pure: time is given.

What the sources say becomes one cue. The table says which mode a cue leads to from the one there is, and how long the
cue must have lasted. Modes are passed one by one (from `on-grid` to `critical` lies over `off-grid` and `low`), so what
is done about each is done in order. Nothing leads from `critical` to `unknown`: whoever stops hearing at the end of a
battery goes on saving it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise

from .choose import Picture
from .ranges import DAY_S, check_range


class Mode(StrEnum):
    """How a node is powered, as `sparkd.POWER_MODES` has it."""

    ON_GRID = "on-grid"
    OFF_GRID = "off-grid"
    LOW = "low"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


SEVERITY = (Mode.ON_GRID, Mode.OFF_GRID, Mode.LOW, Mode.CRITICAL)


class Cue(StrEnum):
    """What the sources say at a moment."""

    MAINS = "mains"
    BATTERY = "battery"
    LOW = "low"
    CRITICAL = "critical"
    ENDING = "ending"  # a source will cut the power
    SILENT = "silent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModesConfig:
    """The table `[plugins.power-monitor.modes]`. Each threshold has a second one at which it is over."""

    off_grid_after_s: float = 0.5
    """How long the mains must be gone, counted from the second reading that says so."""
    on_grid_after_s: float = 10.0
    """How long they must be back: they often come back twice."""
    low_after_s: float = 5.0
    critical_after_s: float = 5.0
    recover_after_s: float = 30.0
    """How long the charge must be over its second threshold, away from the mains."""
    unknown_after_s: float = 30.0
    """How long nobody must have known."""
    low_percent: float = 30.0
    low_over_percent: float = 35.0
    critical_percent: float = 10.0
    critical_over_percent: float = 15.0
    low_runtime_s: float = 0.0
    """`low` also if the battery lasts shorter than this; 0 for not judging by it."""
    critical_runtime_s: float = 120.0
    low_volts: float = 0.0
    """`low` also beneath this voltage of the battery; 0 for not judging by it. For batteries without a gauge."""
    low_over_volts: float = 0.0
    critical_volts: float = 0.0
    critical_over_volts: float = 0.0
    battery_only: bool = False
    """Whether there are no mains at all: what lives by the sun is `off-grid` while its charge is good."""

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self) if f.name != "battery_only"):
            check_range(key, getattr(self, key), 0, DAY_S)
        rising = ("critical_percent", "critical_over_percent", "low_over_percent"), ("low_percent", "low_over_percent")
        for keys in (*rising, ("critical_percent", "low_percent")):
            self._rise(keys)
        for level in ("low", "critical"):
            if getattr(self, f"{level}_volts"):
                self._rise((f"{level}_volts", f"{level}_over_volts"))
        if self.low_volts and self.critical_volts:
            self._rise(("critical_volts", "low_volts"))

    def _rise(self, keys: tuple[str, ...]) -> None:
        values = [getattr(self, key) for key in keys]
        if any(one >= other for one, other in pairwise(values)):
            got = ", ".join(f"{key} = {value:g}" for key, value in zip(keys, values, strict=True))
            raise ValueError(f"each must be less than the next, got {got}")


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a cue leads, and the key of `ModesConfig` that says how long it must have lasted; none for at once."""

    to: Mode
    after: str = ""


_TO_ON = Edge(Mode.ON_GRID, "on_grid_after_s")
_TO_OFF = Edge(Mode.OFF_GRID, "off_grid_after_s")
_DOWN_LOW = Edge(Mode.LOW, "low_after_s")
_DOWN_CRITICAL = Edge(Mode.CRITICAL, "critical_after_s")
_END = Edge(Mode.CRITICAL)
_LOST = Edge(Mode.UNKNOWN, "unknown_after_s")

TABLE: dict[Mode, dict[Cue, Edge]] = {
    Mode.UNKNOWN: {
        Cue.MAINS: Edge(Mode.ON_GRID),
        Cue.BATTERY: _TO_OFF,
        Cue.LOW: _TO_OFF,
        Cue.CRITICAL: _TO_OFF,
        Cue.ENDING: _END,
    },
    Mode.ON_GRID: {
        Cue.BATTERY: _TO_OFF,
        Cue.LOW: _TO_OFF,
        Cue.CRITICAL: _TO_OFF,
        Cue.ENDING: _END,
        Cue.SILENT: _LOST,
    },
    Mode.OFF_GRID: {
        Cue.MAINS: _TO_ON,
        Cue.LOW: _DOWN_LOW,
        Cue.CRITICAL: _DOWN_LOW,
        Cue.ENDING: _END,
        Cue.SILENT: _LOST,
    },
    Mode.LOW: {
        Cue.MAINS: _TO_ON,
        Cue.BATTERY: Edge(Mode.OFF_GRID, "recover_after_s"),
        Cue.CRITICAL: _DOWN_CRITICAL,
        Cue.ENDING: _END,
        Cue.SILENT: _LOST,
    },
    Mode.CRITICAL: {
        Cue.MAINS: _TO_ON,
        Cue.BATTERY: Edge(Mode.LOW, "recover_after_s"),
        Cue.LOW: Edge(Mode.LOW, "recover_after_s"),
    },
}
"""A cue that is not in a mode's row leaves the mode as it is."""


def cue_of(picture: Picture, mode: Mode, config: ModesConfig, *, runtime_s: float | None = None) -> tuple[Cue, str]:
    """Return what *picture* says in *mode*, and the reason for people. *runtime_s* is how long the battery lasts."""
    if picture.ending:
        return Cue.ENDING, f"{picture.ending} will cut the power"
    if picture.mains and not config.battery_only:
        return Cue.MAINS, f"mains there ({picture.mains_by})"
    if picture.mains is None and not config.battery_only:
        return Cue.SILENT, "no source says whether the mains are there"
    level, why = _level(picture, mode, config, runtime_s)
    lost = "no mains here" if config.battery_only else f"mains lost ({picture.mains_by})"
    return level, f"{lost}{', ' if why else ''}{why}"


def _level(picture: Picture, mode: Mode, config: ModesConfig, runtime_s: float | None) -> tuple[Cue, str]:
    if picture.battery_low:
        return Cue.CRITICAL, f"{picture.battery_low} says that its battery is nearly empty"
    percent, volts = picture.value("charge_percent"), picture.value("battery_volts")
    if percent is None and (volts is None or not (config.low_volts or config.critical_volts)) and runtime_s is None:
        return _as_before(mode), "charge not known"
    for cue, level, inside in (
        (Cue.CRITICAL, "critical", mode is Mode.CRITICAL),
        (Cue.LOW, "low", mode in (Mode.LOW, Mode.CRITICAL)),
    ):
        why = _beneath(level, config, percent=percent, volts=volts, runtime_s=runtime_s, inside=inside)
        if why:
            return cue, why
    return Cue.BATTERY, "" if percent is None else f"charge {percent:.0f} %"


def _beneath(
    level: str,
    config: ModesConfig,
    *,
    percent: float | None,
    volts: float | None,
    runtime_s: float | None,
    inside: bool,
) -> str:
    """Return why the battery is at *level*; nothing if it is not. *inside* it, the second thresholds count."""
    over = "_over" if inside else ""
    most = getattr(config, f"{level}{over}_percent")
    if percent is not None and (percent < most or (percent <= most and not inside)):
        return f"charge {percent:.0f} %"
    least = getattr(config, f"{level}_volts") and getattr(config, f"{level}{over}_volts")
    if volts is not None and least and volts < least:
        return f"battery {volts:.2f} V"
    runtime = getattr(config, f"{level}_runtime_s") * (1.5 if inside else 1.0)
    if runtime_s is not None and runtime and runtime_s < runtime:
        return f"{runtime_s:.0f} s left"
    return ""


def _as_before(mode: Mode) -> Cue:
    return {Mode.LOW: Cue.LOW, Mode.CRITICAL: Cue.CRITICAL}.get(mode, Cue.BATTERY)


@dataclass(frozen=True, slots=True)
class Change:
    """The mode became another."""

    before: Mode
    mode: Mode
    reason: str


class Modes:
    """The mode there is, and what is on its way. Tell it every picture, and the time when `due` says so."""

    def __init__(self, config: ModesConfig) -> None:
        self._config = config
        self.mode = Mode.UNKNOWN
        self.reason = "nobody has said anything yet"
        self._towards: tuple[Edge, float] | None = None
        """The edge that is on its way, and since when its cue lasts."""

    def hear(self, picture: Picture, now: float, *, runtime_s: float | None = None) -> list[Change]:
        """Take what is known at *now* (monotonic seconds); return the changes, which may be more than one."""
        changes: list[Change] = []
        while True:
            cue, reason = cue_of(picture, self.mode, self._config, runtime_s=runtime_s)
            edge = TABLE[self.mode].get(cue)
            if edge is None:
                self._towards, self.reason = None, reason
                return changes
            if self._towards is None or self._towards[0].to is not edge.to:
                self._towards = (edge, now)
            if now < self._due(edge, self._towards[1]):
                return changes
            changes.append(Change(self.mode, edge.to, reason))
            self.mode, self.reason, self._towards = edge.to, reason, None

    @property
    def due(self) -> float | None:
        """When (monotonic seconds) to say again what is known, so that a change on its way happens in time."""
        return None if self._towards is None else self._due(*self._towards)

    def _due(self, edge: Edge, since: float) -> float:
        return since + (getattr(self._config, edge.after) if edge.after else 0.0)


def worse(one: Mode, other: Mode) -> Mode:
    """Return the one that leaves less; what is not known counts only if both are not."""
    known = [mode for mode in (one, other) if mode in SEVERITY]
    return max(known, key=SEVERITY.index) if known else Mode.UNKNOWN
