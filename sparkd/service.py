"""What a plugin says and is given: the `Service` it offers and the `Context` it runs in.

A plugin returns `Service` values from its hook; the core turns each into a `Manifest` (plain data, made in a child
process), and from the manifest come CLI help, config schema, access rules and routing. Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import msgspec
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from sparkd.codec import Header
from sparkd.privacy import Privacy

C = TypeVar("C")
E = TypeVar("E")
I = TypeVar("I")  # noqa: E741 - I for interface, beside C for config and E for event
C_co = TypeVar("C_co", covariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
E_co = TypeVar("E_co", covariant=True)

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
"""A service, plugin, node or stream name: lower-case words joined by hyphens."""


class Isolation(StrEnum):
    """Where a service runs (design §2); the API is the same in each."""

    PROCESS = "process"
    INLINE = "inline"
    UNIT = "unit"


class EnergyClass(StrEnum):
    """Which services are shed first when power is short."""

    ESSENTIAL = "essential"
    NORMAL = "normal"
    DEFERRABLE = "deferrable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Generic[C]):
    """What a plugin offers. `run` is one coroutine; the service is ready when it calls `task_status.started()`."""

    name: str
    config: type[C]
    run: Run[C]
    isolation: Isolation = Isolation.PROCESS
    start_limit_s: float = 10.0
    serves: tuple[type[Any], ...] = ()
    publishes: tuple[type[Any] | str, ...] = ()
    """Event classes (their topic and beneath), or topics for untyped events."""
    reads: tuple[type[Any] | str, ...] = ()
    needs: tuple[str, ...] = ()
    """What must be there first, such as `service:hailo-inference` or `device:/dev/hailo0`; see `sparkd.needs`."""
    energy: EnergyClass = EnergyClass.NORMAL

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"service name {self.name!r}: lower-case words joined by hyphens expected")
        if not self.start_limit_s > 0:
            raise ValueError(f"service {self.name}: start_limit_s must be positive, got {self.start_limit_s}")


class Run(Protocol[C_contra]):
    """The shape of a service's coroutine."""

    async def __call__(self, ctx: Context[C_contra], *, task_status: TaskStatus[None]) -> None:
        """Do the service's work until cancelled; raise to be restarted, return when the work is done for good."""
        ...


class MethodManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One method of an interface, as data."""

    name: str
    summary: str = ""
    params: dict[str, Any] = {}
    """JSON Schema of the parameters, an object."""
    result: dict[str, Any] = {}
    stream: str = ""
    """`out` if the result is a stream, `in` if a parameter is, `both`, or nothing."""
    reads: bool = False
    """Whether it changes nothing; only such methods are open to peers without the right to change things."""


class InterfaceManifest(msgspec.Struct, frozen=True, kw_only=True):
    """One interface, as data."""

    name: str
    methods: tuple[MethodManifest, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A `Service` as plain data: all that the core knows of a plugin's code."""

    plugin: str
    name: str
    summary: str = ""
    isolation: Isolation = Isolation.PROCESS
    start_limit_s: float = 10.0
    energy: EnergyClass = EnergyClass.NORMAL
    config_schema: dict[str, Any] = {}
    serves: tuple[InterfaceManifest, ...] = ()
    publishes: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    """Those of `publishes` whose last value the core keeps."""
    reads: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP route that the gateway serves as a call. Data only: no plugin code runs in the gateway."""

    verb: str
    path: str
    method: str
    permission: str = "read"
    cache_s: float = 0.0
    limit_class: str = "default"


class Policy(StrEnum):
    """What a subscription does when its reader is slower than its topics. Every loss is counted."""

    LATEST = "latest"  # only the newest event of each topic
    DROP_OLDEST = "drop_oldest"
    ALL = "all"  # nothing dropped here up to the bound, then the reader fails with BufferError


class Received(msgspec.Struct, Generic[E_co], frozen=True):
    """An event as a subscriber gets it."""

    topic: str
    header: Header
    event: E_co


class Subscription(Protocol[E_co]):
    """An open subscription; iterate it. `lost` counts gaps in the senders' sequences, `dropped` what was shed here."""

    @property
    def lost(self) -> int:
        """How many events were sent and never came."""
        ...

    @property
    def dropped(self) -> int:
        """How many came and were shed here."""
        ...

    @property
    def malformed(self) -> int:
        """How many were not of the type asked for."""
        ...

    def __aiter__(self) -> AsyncIterator[Received[E_co]]: ...
    async def __anext__(self) -> Received[E_co]: ...


class Bus(Protocol):
    """The node's event bus: fast, lossy, and counting what it loses."""

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        privacy: Privacy | None = None,
        trace: bytes | None = None,
        key: str | None = None,
    ) -> None:
        """Send *event* to its topic, or to *topic* beneath it.

        An event declared durable is in the outbox, synced, before it goes out and before this returns; *key* makes a
        retried append of it harmless. Raises LocalMessageError if the service did not declare the topic or the event
        is too large, StorageError if a durable event cannot be stored.
        """
        ...

    def subscribe(
        self, what: type[E], *, topic: str | None = None, policy: Policy = Policy.DROP_OLDEST, limit: int = 1000
    ) -> AbstractAsyncContextManager[Subscription[E]]:
        """Subscribe to the events of class *what*, or only to those at or beneath *topic*."""
        ...

    def subscribe_topic(
        self, topic: str, *, policy: Policy = Policy.DROP_OLDEST, limit: int = 1000
    ) -> AbstractAsyncContextManager[Subscription[Any]]:
        """Subscribe to every event at or beneath *topic*; bodies come as plain values."""
        ...

    async def retained(self, what: type[E], *, topic: str | None = None) -> list[Received[E]]:
        """Return the last values of the state topics of *what* that the core keeps. Subscribe first, then ask."""
        ...


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of an outbox stream, as its writer gives it."""

    topic: str
    body: bytes
    privacy: Privacy = Privacy.LOCAL
    wall_ns: int = 0
    mono_ns: int = 0
    trace: bytes | None = None
    priority: int = 0
    expires_ns: int = 0
    """Wall clock in ns after which nobody wants it; 0 for never. Ignored while the clock is not synchronised."""
    key: str | None = None
    """Idempotency key: a second append with the same key stores nothing and returns the first's sequence number."""


class StreamId(msgspec.Struct, frozen=True, gc=False):
    """Which stream a record belongs to, anywhere in the platform."""

    node_id: str
    """128 bits in hex, made at the node's first start."""
    service: str
    stream: str
    epoch: int
    """64 bits made with the stream."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A record with the sequence number it was stored under; (StreamId, seq) is its identity for ever."""

    seq: int
    record: Record


@runtime_checkable
class OutboxWriter(Protocol):
    """The one writer of a stream."""

    @property
    def stream_id(self) -> StreamId:
        """Which stream it writes."""
        ...

    async def append(self, records: Sequence[Record], *, marks: Mapping[str, bytes] | None = None) -> list[int]:
        """Store *records*, and *marks* with them in one transaction; return their sequence numbers once synced.

        Raises StorageError if the disk refuses; then nothing of the batch was acknowledged.
        """
        ...

    def mark(self, name: str) -> bytes | None:
        """Return the last value stored for the mark *name*."""
        ...


class OutboxReader(Protocol):
    """A named reader of a stream: it keeps its own cursor, and what it has not passed is kept for it."""

    @property
    def stream_id(self) -> StreamId:
        """Which stream it reads."""
        ...

    @property
    def position(self) -> int:
        """The last sequence number passed."""
        ...

    async def read(self, *, max_records: int, max_bytes: int, after: int | None = None) -> list[Stored]:
        """Return the next records after the last read, oldest first; an empty list if there are none now.

        With *after*, return those after that sequence number instead, and leave the place of the last read alone.
        The first record comes even if it alone is larger than *max_bytes*.
        """
        ...

    async def tail(self) -> int:
        """Return the last sequence number of the stream; 0 if nothing was ever appended."""
        ...

    async def wait(self, *, after: int | None = None) -> None:
        """Return when there may be something new to read: after the last read, or after the number *after*."""
        ...

    async def advance(self, seq: int) -> None:
        """Pass everything up to *seq*, durably."""
        ...

    async def rewind(self) -> None:
        """Read again from just after the cursor."""
        ...

    async def reject(self, stored: Stored, reason: str) -> None:
        """Put a record that failed too often among the stream's dead letters; `advance` past it comes after."""
        ...


class Outbox(Protocol):
    """The node's durable streams. A service writes its own and may read those of others."""

    @property
    def node_id(self) -> str:
        """This node's identity, 128 bits in hex."""
        ...

    def writer(self, stream: str) -> AbstractAsyncContextManager[OutboxWriter]:
        """Open this service's stream called *stream* for writing."""
        ...

    def reader(self, service: str, stream: str, *, name: str) -> AbstractAsyncContextManager[OutboxReader]:
        """Open a stream of *service* for the reader called *name*. Creating it holds records back from then on."""
        ...

    async def streams(self) -> list[tuple[str, str]]:
        """Return every (service, stream) of this node."""
        ...

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[list[tuple[str, str]]]]:
        """Iterate over the list of streams: first as it is, then again after each change."""
        ...


@dataclass(frozen=True, slots=True)
class CallInfo:
    """Who makes the call that a handler is answering; `sparkd.current_call()` returns it."""

    method: str
    caller: str
    """`service`, `node/service`, or `rpc:uid=1000`."""
    node: str
    """The node the call came from, as the link verified it by key."""
    privacy: Privacy
    trace: bytes | None
    deadline_s: float


class Log(Protocol):
    """Structured log: the event's name first, then fields."""

    def debug(self, event: str, **fields: object) -> None:
        """Say what only a developer wants; never once per event."""
        ...

    def info(self, event: str, **fields: object) -> None:
        """Say what the operator caused."""
        ...

    def warning(self, event: str, **fields: object) -> None:
        """Say what surprises, with nothing lost."""
        ...

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Say that data was lost or a hand is needed."""
        ...


class Context(Protocol[C_co]):
    """All that a service is given. Nothing in it reaches up into the core."""

    @property
    def config(self) -> C_co:
        """The service's own table, parsed and checked."""
        ...

    @property
    def node(self) -> str:
        """This node's name, a label."""
        ...

    @property
    def site(self) -> str:
        """The site this node stands at."""
        ...

    @property
    def bus(self) -> Bus:
        """The node's event bus."""
        ...

    @property
    def outbox(self) -> Outbox:
        """The node's durable streams."""
        ...

    @property
    def log(self) -> Log:
        """The service's log."""
        ...

    @property
    def metrics(self) -> CollectorRegistry:
        """Where the service registers its Prometheus metrics; the core adds the label `service`."""
        ...

    @property
    def state_dir(self) -> Path:
        """A folder of this service's own that lasts."""
        ...

    async def serve(self, interface: type[I], handler: I) -> None:
        """Answer calls of *interface* with *handler*, from now on. The service must have declared it."""
        ...

    def call(
        self,
        interface: type[I],
        *,
        node: str | None = None,
        service: str | None = None,
        deadline_s: float = 10.0,
        privacy: Privacy = Privacy.LOCAL,
    ) -> I:
        """Return a stand-in for *interface* whose methods are calls; they raise CallError."""
        ...

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = 10.0,
        privacy: Privacy = Privacy.LOCAL,
    ) -> Any:
        """Call *method* (`[node/][service:]interface.method`) with plain values. Raises CallError."""
        ...

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        """Say that the service runs, but with less than it wants; shown by status."""
        ...

    def recovered(self) -> None:
        """Take `degraded` back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoConfig:
    """For a service that has nothing to configure."""
