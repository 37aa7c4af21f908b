"""Telling of a peer: its status for who asks, and events for who listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkd import PeerStatus, TunnelChanged

from .states import TunnelState

if TYPE_CHECKING:
    from .peer import PeerWatch


async def tell(watch: PeerWatch, *, before: TunnelState, reason: str) -> None:
    """Say that the state or the diagnosis of *watch* is another."""
    ctx = watch.parts.ctx
    state, word = watch.state.value, watch.diagnosis.word
    watch.parts.figures.state(watch.name, state)
    ctx.log.info("tunnel", peer=watch.name, state=state, diagnosis=word, reason=reason)
    said = TunnelChanged(
        peer=watch.name,
        interface=watch.iface.name,
        state=state,
        before=before.value,
        diagnosis=word,
        reason=reason,
        endpoint=watch.track.endpoint,
    )
    await ctx.bus.publish(said, topic=f"system.tunnel.peer.{watch.name}")


def status_of(watch: PeerWatch) -> PeerStatus:
    """Return how a peer is."""
    now, link = watch.parts.now(), watch.link
    age = watch.track.age_s(now)
    return PeerStatus(
        peer=watch.name,
        interface=watch.iface.name,
        public_key=watch.key,
        state=watch.state.value,
        since=watch.since,
        diagnosis=watch.diagnosis.word,
        reason=watch.diagnosis.reason or watch.asleep_by(),
        remedy=watch.diagnosis.remedy,
        endpoint=watch.track.endpoint,
        handshake_age_s=None if age is None else round(age, 1),
        received_bytes=watch.track.received,
        sent_bytes=watch.track.sent,
        keepalive_s=watch.iface.setting(watch.key).keepalive_s,
        probe=link.probe_label if link else "",
        latency_ms=link.quality.latency_ms if link else None,
        jitter_ms=link.quality.jitter_ms if link else None,
        loss_percent=link.quality.loss_percent if link else None,
        throughput_bps=link.throughput_bps if link else None,
        path_mtu=link.path_mtu if link else None,
        repairs_last_hour=watch.ladder.last_hour(now),
        repair_in_s=None if watch.repair_at is None else max(round(watch.repair_at - now, 1), 0.0),
    )
