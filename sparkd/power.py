"""Power between services: what a source measures, how a node is powered, what was done about it. Layer: values.

Signs: what flows into a battery is positive, what it gives is negative; loads and the sun are positive. Every value
that a source does not know is None: nobody guesses for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkd.events import Durability, PowerMode, event
from sparkd.interfaces import interface, reads
from sparkd.privacy import Privacy


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerReading:
    """What one source says at one moment."""

    mains: bool | None = None
    """Whether the mains (or a generator) feed what the source watches."""
    supply_volts: float | None = None
    """Of the supply that comes in: the mains behind a UPS, the 5 V of a Pi."""
    load_volts: float | None = None
    load_amps: float | None = None
    load_watts: float | None = None
    """What is used of all that the source feeds."""
    battery_volts: float | None = None
    battery_amps: float | None = None
    """Into the battery; negative while it gives."""
    battery_watts: float | None = None
    """Into the battery; negative while it gives."""
    charge_percent: float | None = None
    capacity_wh: float | None = None
    """Of the full battery."""
    time_to_empty_s: float | None = None
    """By the source's own reckoning."""
    solar_watts: float | None = None
    grid_watts: float | None = None
    temperature_c: float | None = None
    """Of the battery."""
    battery_low: bool = False
    """The source itself says that its battery is nearly empty."""
    shutdown: bool = False
    """The source says that it will cut the power: there is no way back from it."""
    under_voltage: bool | None = None
    throttled: int | None = None
    """The Pi firmware's `get_throttled` bits."""
    detail: dict[str, str] = field(default_factory=dict)
    """What else it says, for people."""


@interface("power-source")
class PowerSource(Protocol):
    """A service that measures: a drop-in's way to add a source to power-monitor."""

    @reads
    async def read(self) -> PowerReading:
        """Return what it measures now. Raises CallError if it cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """A power source, and how it is."""

    name: str
    kind: str
    state: Literal["probing", "live", "stale", "lost"]
    found: str = ""
    """What was found there: maker and model, as far as it tells."""
    reason: str = ""
    """Why it is not live, or what was wrong with its last garbage."""
    remedy: str = ""
    age_s: float | None = None
    """Of its last reading that could be believed; None if there was none."""
    readings: int = 0
    garbage: int = 0
    """Readings that could not be believed."""
    reading: PowerReading | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A value of the model and the source it is from."""

    value: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeToEmpty:
    """How long the battery lasts, as far as can be told."""

    seconds: float
    low_seconds: float
    """With nine chances in ten it lasts longer than this ..."""
    high_seconds: float
    """... and shorter than this."""
    source: str
    """The source, or `model` if it is reckoned from charge, capacity and load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerAction:
    """Something that is done, or was, because of a mode."""

    action: str
    """`shed`, `restore`, `throttle`, `unthrottle`, `shutdown` or `wake`."""
    target: str
    """A service or a node."""
    mode: str
    state: Literal["planned", "done", "failed", "dry-run", "cancelled"]
    reason: str = ""
    at: float = 0.0
    """Wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerStatus:
    """How this node and its site are powered."""

    node: str
    site: str
    mode: str
    site_mode: str
    since: float
    """Wall clock of the node's mode."""
    reason: str
    held: bool = False
    """Whether an operator holds the mode."""
    dry_run: bool = False
    values: dict[str, Measured] = field(default_factory=dict)
    """The chosen value of each field of `PowerReading` that anybody knows."""
    time_to_empty: TimeToEmpty | None = None
    sources: list[SourceStatus] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    actions: list[PowerAction] = field(default_factory=list)
    """The last that were done, newest last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEnergy:
    """What a service has used since energy was first accounted on this node."""

    service: str
    watt_hours: float
    watts: float
    """Over the last interval."""
    cpu_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReport:
    """Energy of a node, and whose it was."""

    since: float
    """Wall clock."""
    node_watt_hours: float
    idle_watt_hours: float
    """Of it what was used though nobody computed."""
    measured_s: float
    """Of the time since, how long power was known."""
    method: str
    services: list[ServiceEnergy] = field(default_factory=list)
    per_unit_joules: dict[str, float] = field(default_factory=dict)
    """Joules per `inference`, per `token`, where somebody counts them."""


@interface("power")
class Power(Protocol):
    """How a node is powered, and what is done about it."""

    @reads
    async def mode(self) -> PowerMode:
        """Return this node's mode."""
        ...

    @reads
    async def status(self) -> PowerStatus:
        """Return modes, values, sources and what was done."""
        ...

    @reads
    async def plan(self, *, mode: str) -> list[PowerAction]:
        """Return what would be done now if the node came to *mode*."""
        ...

    @reads
    async def energy(self) -> EnergyReport:
        """Return what was used, and by whom."""
        ...

    async def hold(self, *, mode: str, seconds: float = 3600.0) -> PowerStatus:
        """Keep *mode* for so long, whatever the sources say: for drills and for maintenance."""
        ...

    async def release(self) -> PowerStatus:
        """Go by the sources again."""
        ...


@event("edge.sensors.power", privacy=Privacy.LOCAL, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSample:
    """The node's power at one moment: the chosen values, and who gave each."""

    mode: str
    values: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    """Which source each of `values` is from."""
    time_to_empty_s: float | None = None


@event("system.power.action", privacy=Privacy.LOCAL, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerActed:
    """Something was done, or in a dry run would have been, because of the node's mode."""

    action: str
    target: str
    mode: str
    state: str
    reason: str = ""
