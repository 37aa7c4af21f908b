"""`recorder`: what was recorded, for whoever asks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anyio import to_thread

from sparkd.config import nearest
from sparkd.errors import CallError, CallErrorKind
from sparkd.metrics import sums
from sparkd.recorder import METRICS, History, NodeUsage, Now, Recorded, Row, ServiceNow, ServiceUsage, Usage
from sparkd.recorder.fold import COUNTED, DAY_S

if TYPE_CHECKING:
    from sparkd.daemon.core import Core
    from sparkd.daemon.flight import Flight


class RecorderAnswers:
    """`recorder`: the flight recorder."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def now(self) -> Now:
        """Return the last look."""
        sample = self._flight().latest
        if sample is None:
            raise CallError(CallErrorKind.UNAVAILABLE, "nothing is recorded yet", remedy="ask again in a second")
        restarts = {name: service.restarts for name, service in self._core.supervisor.services.items()}
        span_s = sample.span_ms / 1000
        services = [_now(row, span_s, restarts.get(row.name, 0)) for row in sample.rows if row.state != "gone"]
        return Now(at=sample.wall_ns / 1e9, span_s=span_s, services=services)

    async def history(
        self, *, service: str, metric: str = "rss", since_s: float = 3600.0, step_s: float = 0.0
    ) -> History:
        """Return a curve."""
        self._flight()
        if metric not in METRICS:
            message = f"there is no metric {metric!r}; {nearest(metric, METRICS)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="metric")
        if not since_s > 0 or step_s < 0:
            raise CallError(CallErrorKind.INVALID_PARAMS, "positive seconds expected", field="since_s")
        places = self._core.places
        recorded = Recorded(places.runtime, places.state)
        found = await to_thread.run_sync(lambda: recorded.history(service, metric, since_s=since_s, step_s=step_s))
        known = ["core", "zygote", *self._core.supervisor.services]
        if not found.points and service not in known:
            message = f"nothing is recorded of {service!r}; {nearest(service, known)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="service")
        return found

    async def counters(self, *, names: list[str]) -> dict[str, dict[str, float]]:
        """Return metrics by their names."""
        snapshots = await self._core.ask_hosts(lambda host: host.snapshot())
        return {service: found for service, content in snapshots.items() if (found := sums(content, set(names)))}

    async def totals(self) -> NodeUsage:
        """Return what every service has used."""
        totals = self._flight().totals
        services = [
            ServiceUsage(name=name, today=_usage(used.today), ever=_usage(used.ever))
            for name, used in sorted(totals.services.items())
        ]
        day = datetime.fromtimestamp(totals.day * DAY_S, UTC).date().isoformat()
        return NodeUsage(since=totals.since, day=day, services=services)

    def _flight(self) -> Flight:
        flight = self._core.recording.flight
        if flight is None:
            raise CallError(
                CallErrorKind.UNAVAILABLE, "the flight recorder does not run", remedy="set [recorder] enabled = true"
            )
        return flight


def _now(row: Row, span_s: float, restarts: int) -> ServiceNow:
    def rate(*columns: str) -> float:
        return round(sum(map(row.value, columns)) / span_s, 1) if span_s else 0.0

    return ServiceNow(
        name=row.name,
        state=row.state,
        restarts=restarts,
        cpu_percent=round(rate("cpu_us") / 10_000, 1),
        rss=row.value("rss"),
        pss=row.value("pss"),
        threads=row.value("threads"),
        fds=row.value("fds"),
        processes=row.value("processes"),
        answer_ms=row.value("answer_us") / 1000,
        read_per_s=rate("read"),
        write_per_s=rate("write"),
        sent_per_s=rate("link", "tcp"),
        published_per_s=rate("published"),
        received_per_s=rate("received"),
        lost_per_s=rate("lost"),
    )


def _usage(amounts: list[int]) -> Usage:
    by_name = dict(zip(COUNTED, amounts, strict=False))
    return Usage(
        cpu_s=round(by_name["cpu_us"] / 1e6, 2),
        written=by_name["write"],
        link=by_name["link"],
        tcp=by_name["tcp"],
        published=by_name["published_bytes"],
    )
