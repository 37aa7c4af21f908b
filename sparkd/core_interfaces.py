"""The core's own interfaces, served by the service `core` of every node; and those between the core and its hosts.

`node plugins bus outbox config logs` are for operators and scripts, over the Unix socket and the link. `supervisor`
is what a service's host says to the core, `host` what the core asks of a service's host.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sparkd.conditions import BlockedLoop, Budget, LastFailure
from sparkd.interfaces import interface, reads
from sparkd.service import EnergyClass, Isolation
from sparkd.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service: what it does, since when, and if it does not run, why and what to do about it."""

    name: str
    plugin: str
    state: State
    since: float
    """Wall clock, seconds since 1970."""
    reason: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0
    pid: int | None = None
    restarts: int = 0
    hangs: int = 0
    """Restarts because its event loop did not answer."""
    last_failure: LastFailure | None = None
    budget: Budget | None = None
    """None if nothing limits it."""
    blocked: BlockedLoop | None = None
    """None if its loop was never blocked."""
    retry_in_s: float | None = None
    isolation: Isolation = Isolation.PROCESS
    energy: EnergyClass = EnergyClass.NORMAL
    critical: bool = False
    serves: list[str] = field(default_factory=list)
    memory_bytes: int | None = None
    """Proportional set size of its process."""
    last_lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """The link to one peer."""

    peer: str
    direction: str
    """`dial` or `listen`."""
    address: str
    connected: bool
    since: float
    reason: str = ""
    remedy: str = ""
    rtt_ms: float | None = None
    sent: int = 0
    received: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """All that `sparkctl status` shows."""

    node: str
    node_id: str
    role: str
    site: str
    version: str
    uptime_s: float
    summary: str
    """One line, the same that systemd shows."""
    ready: bool
    services: list[ServiceStatus]
    links: list[LinkStatus]
    problems: list[str]
    """What is wrong and not a service's or a link's: one sentence each, with what to do."""
    core_memory_bytes: int | None = None
    core_blocked: BlockedLoop | None = None
    """None if the core's own loop was never blocked."""


@interface("node")
class NodeApi(Protocol):
    """The node as a whole."""

    @reads
    async def status(self) -> NodeStatus:
        """Return what runs, what does not, why, and what to do about it."""
        ...

    @reads
    async def version(self) -> str:
        """Return the version of sparkd."""
        ...

    @reads
    async def health(self) -> bool:
        """Return whether every service that is wanted runs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginStatus:
    """One plugin: where it comes from and what came of loading it."""

    name: str
    origin: str
    """`installed`, or the path of the drop-in."""
    enabled: bool
    services: list[str]
    problem: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0


@interface("plugins")
class PluginsApi(Protocol):
    """Plugins and their services."""

    @reads
    async def status(self) -> list[PluginStatus]:
        """List every plugin that is installed or dropped in."""
        ...

    async def start(self, *, name: str) -> ServiceStatus:
        """Start a service that is stopped, broken or waiting; return what became of it."""
        ...

    async def stop(self, *, name: str) -> ServiceStatus:
        """Stop a service until it is started again or the daemon restarts."""
        ...

    async def restart(self, *, name: str) -> ServiceStatus:
        """Stop a service and start it again."""
        ...

    async def rescan(self) -> dict[str, list[str]]:
        """Look at the drop-in folders now; return what was `added`, `changed` and `removed`."""
        ...

    async def enable(self, *, name: str) -> PluginStatus:
        """Let a plugin run, now and after a restart."""
        ...

    async def disable(self, *, name: str) -> PluginStatus:
        """Stop a plugin, now and after a restart."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BusEvent:
    """An event as the socket shows it."""

    topic: str
    node: str
    service: str
    seq: int
    wall_ns: int
    privacy: str
    event: Any
    retained: bool = False
    """Whether it is a last value that was there before, not news."""


@interface("bus")
class BusApi(Protocol):
    """The event bus."""

    @reads
    async def stats(self) -> dict[str, Any]:
        """Return counters of the broker, and of each service's publisher and subscriptions: sent, lost, dropped."""
        ...

    @reads
    async def last(self, *, topic: str = "") -> list[BusEvent]:
        """Return the last values of the state topics at or beneath *topic*."""
        ...

    @reads
    def subscribe(self, *, topics: list[str]) -> AsyncIterator[BusEvent]:
        """Stream the events at or beneath *topics*: first the last values of state topics, then what comes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderStatus:
    """One reader of an outbox stream."""

    name: str
    position: int
    behind: int
    """Records it has not passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStatus:
    """One outbox stream."""

    service: str
    stream: str
    first_seq: int
    last_seq: int
    bytes: int
    segments: int
    readers: list[ReaderStatus]
    oldest_age_s: float | None = None
    dead: int = 0
    evicted: int = 0
    gaps: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that a reader could not get rid of."""

    seq: int
    reader: str
    reason: str
    at: float
    topic: str
    bytes: int


@interface("outbox")
class OutboxApi(Protocol):
    """Durable streams."""

    @reads
    async def status(self) -> list[OutboxStatus]:
        """Return every stream of the node."""
        ...

    @reads
    async def dead(self, *, service: str, stream: str) -> list[DeadLetter]:
        """List the dead letters of a stream."""
        ...

    async def drop(self, *, service: str, stream: str, seqs: list[int]) -> int:
        """Delete dead letters; return how many."""
        ...

    async def retry(self, *, service: str, stream: str, seqs: list[int]) -> int:
        """Have dead letters appended again, under new numbers; return how many."""
        ...

    async def forget(self, *, service: str, stream: str, reader: str) -> None:
        """Remove the cursor of a reader that is no more, so that it holds nothing back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """A change that was taken back, while it is still what the disk holds."""

    service: str
    """The critical service that failed by it."""
    reason: str
    at: float
    kept: str
    """The folder with a copy of what was taken back."""
    in_force: str
    """The folder with the version that is in force instead."""
    difference: str
    """From the one in force to the one taken back, as a unified diff without secrets."""


@interface("config")
class ConfigApi(Protocol):
    """The configuration in force."""

    @reads
    async def show(self) -> dict[str, Any]:
        """Return the config in force, secrets hidden."""
        ...

    @reads
    async def schema(self, *, name: str) -> dict[str, Any]:
        """Return the JSON Schema of a service's config table."""
        ...

    async def changes(self) -> RollBack | None:
        """Return the change that was taken back because a critical service failed by it; null if none was."""
        ...

    async def accept(self) -> None:
        """Go by what is on disk, whatever comes of it."""
        ...

    async def reload(self) -> list[str]:
        """Read the config again and apply it; return what changed. A config with errors changes nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One line a service or the core wrote."""

    service: str
    level: int
    """As in syslog: 3 error, 4 warning, 6 info, 7 debug."""
    text: str
    at: float


@interface("logs")
class LogsApi(Protocol):
    """The last lines of every service."""

    @reads
    async def tail(
        self, *, service: str = "", lines: int = 50, since: float = 0.0, level: int = 7, text: str = ""
    ) -> list[LogRecord]:
        """Return the last lines of *service*, or of all: from *since* on (wall clock), with *text* in them.

        *level* is the quietest wanted. What the daemon holds in memory counts even if it is not stored yet.
        """
        ...

    @reads
    async def levels(self) -> dict[str, str]:
        """Return how much is logged of the core and of each service."""
        ...

    async def set_level(
        self, *, level: Literal["debug", "info", "warning", "error"], service: str = ""
    ) -> dict[str, str]:
        """Log a service, `core` or all at *level* until the daemon restarts; return all levels."""
        ...

    @reads
    def follow(self, *, service: str = "") -> AsyncIterator[LogRecord]:
        """Stream the lines as they come."""
        ...


@interface("supervisor")
class SupervisorApi(Protocol):
    """What a service's host says to the core. Open to hosts only."""

    async def hello(self, *, service: str, token: str) -> None:
        """Say which service this connection speaks for; the one-time token proves it."""
        ...

    async def bind(self, *, interfaces: list[str]) -> None:
        """Say which interfaces are answered from now on."""
        ...

    async def ready(self) -> None:
        """Say that the service has started."""
        ...

    async def degraded(self, *, reason: str, remedy: str = "") -> None:
        """Say that the service runs with less than it wants."""
        ...

    async def recovered(self) -> None:
        """Take `degraded` back."""
        ...

    async def blocked(
        self, *, count: int, seconds: float, longest_s: float, last_s: float, file: str, line: int
    ) -> None:
        """Say how often its loop was blocked since this was said last, for how long, and where the last time."""
        ...

    @reads
    async def retained(self, *, topic: str) -> list[list[bytes]]:
        """Return the three frames of each last value at or beneath *topic*."""
        ...


@interface("host")
class HostApi(Protocol):
    """What the core asks of a service's host."""

    @reads
    async def ping(self) -> bool:
        """Answer: proof that the event loop runs."""
        ...

    async def stop(self) -> None:
        """Cancel the service; the host ends when it has cleaned up."""
        ...

    async def set_log_level(self, *, level: Literal["debug", "info", "warning", "error"]) -> None:
        """Log at *level* from now on."""
        ...

    @reads
    async def snapshot(self) -> bytes:
        """Return the service's metrics (`sparkd.metrics.snapshot`)."""
        ...

    @reads
    async def stats(self) -> dict[str, Any]:
        """Return counters of the bus client."""
        ...

    @reads
    async def stack(self) -> str:
        """Return where the service's tasks are suspended, innermost last, one `file:line function` a line."""
        ...
