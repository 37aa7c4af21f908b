"""What each mode asks for: which services rest, which are slowed, whether the machine goes off. Pure.

A mode's table names energy classes and services. What several modes ask for adds up: in `critical` holds what
`off-grid` and `low` say, so the services go one class after the other and come back the other way round. In `unknown`
nothing is done and nothing undone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkd import EnergyClass

from .modes import SEVERITY, Mode
from .ranges import DAY_S, HOUR_S, check_range

ORDER = (EnergyClass.DEFERRABLE, EnergyClass.NORMAL, EnergyClass.ESSENTIAL)
"""Who goes first."""
MOST_PERCENT = 100_000.0
"""A thousand processors."""
KEPT = ("power-monitor", "core")
"""Never shed: it is what brings the others back."""


class Known(Protocol):
    """A service of this node, as far as the policy must know it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def energy(self) -> EnergyClass:
        """Its energy class, as configured."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModePolicy:
    """The table `[plugins.power-monitor.policy.MODE]`."""

    shed: list[str] = field(default_factory=list)
    """Energy classes (`deferrable`, `normal`) and names of services that rest in this mode and those below it."""
    throttle: dict[str, float] = field(default_factory=dict)
    """Energy classes and names of services, each with the percent of one processor that it may use."""
    shutdown: Literal["", "poweroff"] = ""
    """Whether the machine goes off."""
    after_s: float = 0.0
    """How long the mode must have lasted before any of it is done."""

    def __post_init__(self) -> None:
        if EnergyClass.ESSENTIAL in self.shed:
            raise ValueError("shed: 'essential' services are never shed as a class; name a service if you must")
        for name in self.shed:
            if name in KEPT:
                raise ValueError(f"shed: {name!r} is what brings the others back")
        for name, percent in self.throttle.items():
            if name in KEPT:
                raise ValueError(f"throttle: {name!r} is what steers the others")
            check_range(f"throttle.{name}", percent, 1, MOST_PERCENT)
        check_range("after_s", self.after_s, 0, DAY_S)


def default_policies() -> dict[str, ModePolicy]:
    """Return what is done if the config says nothing: work that can wait, waits. No machine goes off unasked."""
    return {
        Mode.OFF_GRID: ModePolicy(shed=["deferrable"]),
        Mode.LOW: ModePolicy(throttle={"normal": 50.0}),
        Mode.CRITICAL: ModePolicy(shed=["normal"]),
    }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a mode asks for, as far as its time has come."""

    shed: tuple[str, ...] = ()
    """In the order in which they go."""
    throttle: Mapping[str, float] = field(default_factory=dict)
    shutdown: str = ""
    next_s: float | None = None
    """How long until the next part's time comes; None if all has come."""


def wanted(
    mode: Mode, lasted: Mapping[Mode, float], policies: Mapping[str, ModePolicy], services: Sequence[Known]
) -> Wanted | None:
    """Return what holds in *mode*, of which each mode from `off-grid` on has *lasted* so many seconds.

    None if nothing is to be done or undone.
    """
    if mode not in SEVERITY:
        return None
    shed: dict[str, None] = {}
    throttle: dict[str, float] = {}
    shutdown, waits = "", []
    for at in SEVERITY[: SEVERITY.index(mode) + 1]:
        policy = policies.get(at)
        if policy is None:
            continue
        left = policy.after_s - lasted.get(at, 0.0)
        if left > 0:
            waits.append(left)
            continue
        shed |= dict.fromkeys(_named(policy.shed, services))
        for key, percent in policy.throttle.items():
            for name in _named([key], services):
                throttle[name] = min(percent, throttle.get(name, percent))
        shutdown = policy.shutdown or shutdown
    slowed = {name: percent for name, percent in throttle.items() if name not in shed}
    return Wanted(tuple(shed), slowed, shutdown, min(waits, default=None))


def _named(words: Sequence[str], services: Sequence[Known]) -> list[str]:
    """Return the services that *words* name, those that go first first."""
    found = [one for one in services if one.name not in KEPT and (one.name in words or one.energy in words)]
    return [one.name for one in sorted(found, key=lambda one: (ORDER.index(one.energy), one.name))]


def back(names: Sequence[str], services: Sequence[Known]) -> list[str]:
    """Return *names* in the order in which they come back: who went last comes first."""
    energy = {one.name: one.energy for one in services}
    return sorted(names, key=lambda name: (-ORDER.index(energy.get(name, EnergyClass.DEFERRABLE)), name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownConfig:
    """The table `[plugins.power-monitor.shutdown]`: who goes off before whom."""

    order: list[list[str]] = field(default_factory=list)
    """Stages of nodes of this site: those of a stage go off once all of the stages before it are off. Clients before
    the NAS. The same in the config of every node."""
    asks: list[str] = field(default_factory=list)
    """Nodes that this one asks to go off when their turn comes, because they do not see the power themselves. They
    must let this node call `machine.shutdown`."""
    stage_limit_s: float = 60.0
    """How long a stage is waited for."""

    def __post_init__(self) -> None:
        named = [name for stage in self.order for name in stage]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"order: each node once, got {', '.join(twice)} more than once")
        check_range("stage_limit_s", self.stage_limit_s, 1, HOUR_S)
        strange = sorted(set(self.asks) - set(named))
        if self.order and strange:
            raise ValueError(f"asks: {', '.join(strange)} must stand in order too")


@dataclass(frozen=True, slots=True)
class Turn:
    """A node's place in the order of going off."""

    before: tuple[tuple[str, ...], ...]
    """The stages that go first."""
    after: tuple[str, ...]
    """The nodes of the stages that go later."""


def turn_of(node: str, config: ShutdownConfig) -> Turn:
    """Return the place of *node*. One that is not listed goes with the first, and asks those it must before it goes."""
    for at, stage in enumerate(config.order):
        if node in stage:
            before = tuple(tuple(names) for names in config.order[:at])
            return Turn(before, tuple(name for names in config.order[at + 1 :] for name in names))
    return Turn((), tuple(name for names in config.order for name in names) or tuple(config.asks))
