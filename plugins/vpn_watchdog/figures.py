"""What the watchdog counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sparkd import TUNNEL_STATES, LinkQuality


class Figures:
    """The metrics of the tunnels; one set a process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything with *registry*."""
        peer = ("peer",)
        self._state = Gauge("sparkd_tunnel_state", "1 for the state a peer is in", ("peer", "state"), registry=registry)
        self._latency = Gauge("sparkd_tunnel_latency_ms", "Round trip through the tunnel", peer, registry=registry)
        self._jitter = Gauge("sparkd_tunnel_jitter_ms", "Its change from packet to packet", peer, registry=registry)
        self._loss = Gauge("sparkd_tunnel_loss_percent", "Probe packets that were lost", peer, registry=registry)
        self._repairs = Counter("sparkd_tunnel_repairs", "Repairs made", ("peer", "step", "helped"), registry=registry)

    def state(self, peer: str, state: str) -> None:
        """Note the state of *peer*."""
        for one in TUNNEL_STATES:
            self._state.labels(peer, one).set(float(one == state))

    def quality(self, said: LinkQuality) -> None:
        """Note the quality of a link."""
        for gauge, value in ((self._latency, said.latency_ms), (self._jitter, said.jitter_ms)):
            if value is not None:
                gauge.labels(said.peer).set(value)
        self._loss.labels(said.peer).set(said.loss_percent)

    def repair(self, peer: str, step: str, *, helped: bool) -> None:
        """Count a repair."""
        self._repairs.labels(peer, step, "yes" if helped else "no").inc()
