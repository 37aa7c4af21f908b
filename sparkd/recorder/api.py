"""The interface `recorder` of every node: what was recorded of its services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from sparkd.interfaces import interface, reads
from sparkd.recorder.history import History


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceNow:
    """One service, by the last look at it; rates are over *span_s* of `Now`. `sparkctl top` shows this."""

    name: str
    state: str
    restarts: int
    cpu_percent: float
    """Of one processor."""
    rss: int
    pss: int
    threads: int
    fds: int
    processes: int
    answer_ms: float
    """How long its event loop took to answer; 0 if it was not asked yet."""
    read_per_s: float
    write_per_s: float
    sent_per_s: float
    """Bytes over the link for it, and by TCP to other machines."""
    published_per_s: float
    received_per_s: float
    lost_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The last look at everything."""

    at: float
    """Wall clock."""
    span_s: float
    services: list[ServiceNow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a service has used."""

    cpu_s: float = 0.0
    written: int = 0
    """Bytes to storage."""
    link: int = 0
    """Bytes over the link."""
    tcp: int = 0
    """Bytes by TCP to other machines."""
    published: int = 0
    """Bytes of events on the bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUsage:
    """What a service has used today, and since the recorder first ran."""

    name: str
    today: Usage
    ever: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUsage:
    """What every service has used."""

    since: float
    """Wall clock, when the recorder first ran."""
    day: str
    """What `today` means: a date, UTC."""
    services: list[ServiceUsage] = field(default_factory=list)


@interface("recorder")
class RecorderApi(Protocol):
    """The flight recorder."""

    @reads
    async def now(self) -> Now:
        """Return the last look at the core, the zygote and every service."""
        ...

    @reads
    async def history(
        self, *, service: str, metric: str = "rss", since_s: float = 3600.0, step_s: float = 0.0
    ) -> History:
        """Return a curve of at most 2,000 points: seconds from memory if it reaches back that far, else minutes.

        Metrics: cpu sent rss pss threads fds processes answer_us read write link tcp published published_bytes received
        lost switches preempted major_faults restarts. *step_s* 0 chooses one.
        """
        ...

    @reads
    async def counters(self, *, names: list[str]) -> dict[str, dict[str, float]]:
        """Return, by service, the metrics called *names*: counters and gauges, each the sum over its labels."""
        ...

    @reads
    async def totals(self) -> NodeUsage:
        """Return the bytes written and sent, and the processor time, of every service: today, and ever."""
        ...
