"""The core's own metrics, read off its parts when Prometheus asks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sparkd.bus.figures import figures_of
from sparkd.daemon.recorder_figures import recorded
from sparkd.metrics import serve_metrics, snapshot
from sparkd.states import State

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


def registry_of(core: Core) -> CollectorRegistry:
    """Return a registry with the figures of *core* and of its process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry, pid=os.getpid)
    registry.register(_Figures(core))
    return registry


async def open_metrics(core: Core, stack: AsyncExitStack) -> None:
    """Answer Prometheus until *stack* is left; an address that cannot be used is a problem, not an end."""
    address = core.config.node.metrics_listen
    if not address:
        return
    registry = registry_of(core)

    async def snapshots() -> list[tuple[str, bytes]]:
        return [("core", snapshot(registry)), *(await core.ask_hosts(lambda host: host.snapshot())).items()]

    def bad(service: str, why: str) -> None:
        if core.complaints.passes(f"metrics {service}") is not None:
            core.log.warning("metrics not taken", service=service, why=why)

    try:
        await stack.enter_async_context(serve_metrics(address, snapshots, on_bad=bad))
    except OSError as error:
        core.problems["metrics"] = (
            f"no metrics: cannot listen on {address}: {error.strerror}; set [node] metrics_listen to another port"
        )
        core.log.warning("no metrics", address=address, why=str(error))


class _Figures(Collector):
    def __init__(self, core: Core) -> None:
        self._core = core

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        core = self._core
        states = GaugeMetricFamily("sparkd_service_state", "1 for the state a service is in.", labels=["name", "state"])
        restarts = CounterMetricFamily("sparkd_service_restarts", "Runs of a service that ended.", labels=["name"])
        hangs = CounterMetricFamily("sparkd_service_hangs", "Event loops that did not answer; killed.", labels=["name"])
        for name, service in list(core.supervisor.services.items()):
            for state in State:
                states.add_metric([name, state.value], float(service.state is state))
            restarts.add_metric([name], service.restarts)
            hangs.add_metric([name], service.hangs)
        yield from (
            states,
            restarts,
            hangs,
            *core.blocks.metrics(),
            *core.budgets.metrics(),
            *self._link(),
            *self._doors(),
            *recorded(core),
        )

    def _link(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("sparkd_link_connected", "1 while the link to a peer is up.", labels=["peer"])
        sent = CounterMetricFamily("sparkd_link_sent_messages", "Messages sent to a peer.", labels=["peer"])
        received = CounterMetricFamily("sparkd_link_received_messages", "Messages from a peer.", labels=["peer"])
        refused = CounterMetricFamily("sparkd_link_refused", "What a peer was refused.", labels=["peer", "reason"])
        for peer in self._core.link.status():
            up.add_metric([peer.peer], float(peer.connected))
            sent.add_metric([peer.peer], peer.sent)
            received.add_metric([peer.peer], peer.received)
            for reason, count in peer.refused.items():
                refused.add_metric([peer.peer, reason], count)
        strangers = CounterMetricFamily("sparkd_link_strangers", "Connections of strangers refused.", labels=["reason"])
        for reason, count in self._core.link.refused().items():
            strangers.add_metric([reason], count)
        yield from (up, sent, received, refused, strangers)

    def _doors(self) -> Iterator[Metric]:
        core = self._core
        bus = core.bus.stats()
        yield CounterMetricFamily("sparkd_bus_refused", "Peers refused on the bus sockets.", core.broker.peers.refused)
        yield from figures_of(bus)
        cut = core.queues.cut_off
        yield CounterMetricFamily("sparkd_bus_readers_cut_off", "Readers of the bus that did not read.", cut)
        counts = core.rpc_counts
        rpc = CounterMetricFamily("sparkd_rpc", "What the JSON-RPC socket has seen.", labels=["what"])
        for what in ("connections", "messages", "refused", "malformed", "too_long", "half_lines", "slow_readers"):
            rpc.add_metric([what], getattr(counts, what))
        yield rpc
