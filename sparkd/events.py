"""Typed events: what services tell each other over the bus. This file is the wire contract.

An event is a frozen dataclass with a topic, a version, a default privacy class and a durability class. A receiver
ignores fields it does not know; a missing required one is the sender's error. Units stand in the field names.
Platform topics keep their names (`edge.telemetry`, `edge.ai.inference`, ...); more specific ones go beneath them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from sparkd.privacy import Privacy

T = TypeVar("T")

TOPIC = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*")
"""A topic: dotted, lower case; each segment letters, digits, `_` or `-`."""

PLATFORM_TOPICS = (
    "edge.telemetry",
    "edge.ai.inference",
    "edge.sensors",
    "system.health",
    "cloud.commands",
    "models.updates",
    "analytics.events",
)
"""The seven topics of the platform (`prime-spark-architecture.md`): each is a Kafka topic in the cloud."""


POWER_MODES = ("on-grid", "off-grid", "low", "critical", "unknown")
"""What `PowerMode` may say, from plenty to nearly nothing, and that nobody knows."""


class Durability(StrEnum):
    """What the platform promises for an event."""

    TRANSIENT = "transient"  # bus only; loss is counted
    DURABLE = "durable"  # goes to the outbox, synced, before it goes to the bus
    STATE = "state"  # the last value is kept by the core for those who come later


@dataclass(frozen=True, slots=True)
class EventType:
    """What `@event` declared about an event class."""

    topic: str
    version: int
    privacy: Privacy
    durability: Durability


def event(
    topic: str,
    *,
    version: int = 1,
    privacy: Privacy = Privacy.LOCAL,
    durability: Durability = Durability.TRANSIENT,
) -> Callable[[type[T]], type[T]]:
    """Declare a frozen dataclass as the event of *topic*. Raises ValueError for a malformed topic."""
    if not TOPIC.fullmatch(topic):
        raise ValueError(f"malformed topic {topic!r}: dotted lower-case segments expected, such as 'edge.telemetry'")

    def declare(cls: type[T]) -> type[T]:
        cls.__sparkd_event__ = EventType(topic, version, privacy, durability)  # type: ignore[attr-defined]
        return cls

    return declare


def event_type(cls: type[Any]) -> EventType:
    """Return what `@event` declared about *cls*. Raises TypeError if it is not an event."""
    declared = cls.__dict__.get("__sparkd_event__")
    if not isinstance(declared, EventType):
        raise TypeError(f"{cls.__name__} is not an event: decorate the dataclass with @event('topic')")
    return declared


def topic_matches(pattern: str, topic: str) -> bool:
    """Whether *topic* is *pattern* or beneath it, by whole segments: `edge.ai` matches `edge.ai.x`, not `edge.aix`.

    The empty pattern matches everything.
    """
    return not pattern or topic == pattern or (topic.startswith(pattern) and topic[len(pattern)] == ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One mounted file system."""

    mount: str
    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface; counters since it came up."""

    name: str
    up: bool
    sent_bytes: int
    received_bytes: int
    errors: int
    drops: int


@event("edge.telemetry", privacy=Privacy.SHARED, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """A node's own vital signs, sampled at an interval."""

    cpu_percent: float
    load_1min: float
    memory_total_bytes: int
    memory_available_bytes: int
    uptime_s: float
    cpu_percent_each: list[float] = field(default_factory=list)
    cpu_mhz: float | None = None
    swap_used_bytes: int = 0
    temperatures_c: dict[str, float] = field(default_factory=dict)
    disks: list[Disk] = field(default_factory=list)
    interfaces: list[Interface] = field(default_factory=list)


@event("system.health", privacy=Privacy.SHARED, durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """Whether the machine is well, and what is wrong if not: one sentence a problem, each with what to do."""

    ok: bool
    problems: list[str] = field(default_factory=list)
    throttled: int | None = None
    """The Pi firmware's `get_throttled` bits, where there is such a firmware."""


@event("system.health.service", privacy=Privacy.SHARED, durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChanged:
    """A service of this node changed its state (`sparkd.states.State`)."""

    service: str
    state: str
    reason: str = ""
    restarts: int = 0


@event("system.health.rollback", privacy=Privacy.LOCAL)
@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """A change of config or drop-ins was taken back, because a critical service failed by it."""

    service: str
    reason: str
    version: str
    """The hash of what is on disk, and out of force."""
    good: str
    """The hash of what is in force."""


@event("system.health.link", privacy=Privacy.LOCAL, durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """The link to a peer came up or went down."""

    peer: str
    connected: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One object found in a picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the source picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a picture as a whole shows, by a classifier."""

    label: str
    score: float


@event("edge.ai.inference", privacy=Privacy.SHARED, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """What a model saw in one picture. Labels and boxes only: never the picture."""

    model: str
    model_version: str
    task: str
    source: str
    """The picture's file name or the caller's name for it; a path would tell more than needed."""
    width: int
    height: int
    backend: str
    detections: list[Detection] = field(default_factory=list)
    stages_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds per stage: decode, preprocess, infer, postprocess; of a live source also wait, before the first."""
    source_ns: int = 0
    """Wall clock when the picture was first seen, nanoseconds; 0 if not known."""
    labels: list[Classification] = field(default_factory=list)
    """Of a classifier: best first."""
    embedding: list[float] = field(default_factory=list)
    """Of an embedding model: the vector that stands for the picture."""
    snapshot: str = ""
    """The file name of the annotated picture in the source's snapshot folder, if one was kept."""


@event("system.power.mode", privacy=Privacy.LOCAL, durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerMode:
    """How a node or a whole site is powered. Services use less when it is less."""

    mode: str
    """One of `POWER_MODES`."""
    scope: str = "node"
    """`node` or `site`."""
    name: str = ""
    """The node or the site it is true of."""
    reason: str = ""


@event("edge.sensors", privacy=Privacy.SHARED, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class SensorReading:
    """One value of one sensor, with its unit."""

    sensor: str
    quantity: str
    value: float
    unit: str


@event("analytics.events", privacy=Privacy.SHARED, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticsEvent:
    """Something worth counting that fits no other event."""

    name: str
    attributes: dict[str, str | int | float | bool] = field(default_factory=dict)


@event("cloud.commands.result", privacy=Privacy.SHARED, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What became of a command that another node sent to this one."""

    command_id: str
    ok: bool
    result: Any = None
    error: str = ""


class Ingested(msgspec.Struct, array_like=True, frozen=True, kw_only=True, gc=False):
    """A record of another node's outbox as this node stores it: the body of each record of the stream `ingest`.

    The first six fields say who; (node_id, service, stream, epoch, seq) is its identity for ever. New fields are
    appended with a default.
    """

    node: str
    """The name the link verified: a label."""
    node_id: str
    service: str
    stream: str
    epoch: int
    seq: int
    topic: str
    body: bytes
    privacy: Privacy
    wall_ns: int
    """By the clock of its node, which may have been wrong."""
    arrival_ns: int
    """By the clock of this node."""
    trace: bytes | None = None


@event("sparkd.tails", privacy=Privacy.LOCAL)
@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """The last sequence number of each topic a publisher has sent, said every second, so a lost tail is counted."""

    last: dict[str, int]
