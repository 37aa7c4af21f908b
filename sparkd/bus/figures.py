"""The counters of a bus client as metrics, read off it when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


def figures_of(stats: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield what `BusClient.stats` says; the core adds the label `service`."""
    yield CounterMetricFamily("sparkd_bus_published", "Events published.", stats["published"])
    yield CounterMetricFamily("sparkd_bus_flooded", "Events dropped by the bound on floods.", stats["flooded"])
    yield CounterMetricFamily("sparkd_bus_unshared", "Events dropped for lack of shared memory.", stats["unshared"])
    for name, about in (
        ("received", "Events that came to open subscriptions."),
        ("lost", "Events that were sent and never came to open subscriptions."),
        ("dropped", "Events dropped because a subscription's reader was too slow."),
    ):
        family = CounterMetricFamily(f"sparkd_bus_{name}", about, labels=["topic"])
        for topic, count in _by_topic(stats["subscriptions"], name).items():
            family.add_metric([topic], count)
        yield family


def _by_topic(subscriptions: Iterable[Mapping[str, Any]], name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in subscriptions:
        counts[one["topic"]] = counts.get(one["topic"], 0) + one[name]
    return counts


class BusFigures(Collector):
    """The counters of one bus client."""

    def __init__(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        """Ask *stats* each time."""
        self._stats = stats

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is becomes known when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the counters as they are now."""
        return figures_of(self._stats())
