"""What the uplink counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Figures:
    """The metrics of the uplink; one set a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything with *registry*."""
        of_stream = ("stream",)
        self.records = Counter(
            "sparkd_uplink_records", "Records acknowledged by the target", of_stream, registry=registry
        )
        self.sent_bytes = Counter("sparkd_uplink_sent_bytes", "Body bytes acknowledged", of_stream, registry=registry)
        self.batches = Counter("sparkd_uplink_batches", "Batches acknowledged", ("stream", "lane"), registry=registry)
        self.failures = Counter("sparkd_uplink_failures", "Batches that failed", ("stream", "kind"), registry=registry)
        self.withheld = Counter(
            "sparkd_uplink_withheld", "Records that may not or need not go", ("stream", "reason"), registry=registry
        )
        self.dead = Counter("sparkd_uplink_dead_letters", "Records put aside", of_stream, registry=registry)
        self.backlog = Gauge(
            "sparkd_uplink_backlog_records", "Records not known to be at the target", of_stream, registry=registry
        )
        self.oldest_age = Gauge(
            "sparkd_uplink_oldest_age_seconds", "Age of the oldest record under way", of_stream, registry=registry
        )
        self.commands = Counter(
            "sparkd_uplink_commands", "Commands by what became of them", ("outcome",), registry=registry
        )
