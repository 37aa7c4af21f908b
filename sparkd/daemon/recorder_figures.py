"""What the flight recorder holds, as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sparkd.recorder.fold import COUNTED

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

_USED = (
    ("cpu_us", 1e6, "sparkd_process_cpu_seconds", "Processor time of its processes, over all runs."),
    ("write", 1, "sparkd_disk_written_bytes", "Bytes its processes wrote to storage, over all runs."),
    ("link", 1, "sparkd_link_sent_bytes", "Bytes sent over the link for it, over all runs."),
    ("tcp", 1, "sparkd_tcp_sent_bytes", "Bytes its processes sent by TCP to other machines, over all runs; at least."),
)


def recorded(core: Core) -> Iterator[Metric]:
    """Yield memory now, and what was used in all, of the core, the zygote and every service."""
    flight = core.recording.flight
    if flight is None or flight.latest is None:
        return
    memory = GaugeMetricFamily("sparkd_process_memory_bytes", "Resident memory of its processes.", labels=["name"])
    for row in flight.latest.rows:
        memory.add_metric([row.name], row.value("rss"))
    yield memory
    for column, scale, name, about in _USED:
        family = CounterMetricFamily(name, about, labels=["name"])
        for service, used in list(flight.totals.services.items()):
            family.add_metric([service], used.ever[COUNTED.index(column)] / scale)
        yield family
