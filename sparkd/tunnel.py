"""WireGuard tunnels between services: how each peer is, how good its link is, what was done to mend it. Layer: values.

A peer has a name: that of its table in the config of vpn-watchdog, or `peer-` and the first eight hex digits of its
public key. Ages are told by a clock that nobody sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkd.events import Durability, event
from sparkd.interfaces import interface, reads
from sparkd.privacy import Privacy

TUNNEL_STATES = ("up", "idle", "stale", "down", "asleep")
"""What `PeerStatus.state` may be: it answers; nothing is wanted of it; in doubt; it does not answer; not watched."""
REPAIR_STEPS = ("re-resolve", "reset-peer", "new-port", "restart-interface", "tell-operator")
"""What is done to mend a tunnel, in rising order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A WireGuard peer, and how it is."""

    peer: str
    interface: str
    public_key: str
    state: Literal["up", "idle", "stale", "down", "asleep"]
    since: float
    """Wall clock at which the state began."""
    diagnosis: str = ""
    """Why it is not up, or what is wrong though it is, in one word of those README lists; nothing if all is well."""
    reason: str = ""
    remedy: str = ""
    endpoint: str = ""
    """Where its packets go now; empty if it was never heard of."""
    handshake_age_s: float | None = None
    """None if there was none."""
    received_bytes: int = 0
    sent_bytes: int = 0
    keepalive_s: int = 0
    """0 for off."""
    probe: str = ""
    """How it is probed: `icmp 10.8.0.1`, `tcp 10.8.0.1:9`; empty if it is not."""
    latency_ms: float | None = None
    jitter_ms: float | None = None
    loss_percent: float | None = None
    throughput_bps: float | None = None
    path_mtu: int | None = None
    """The largest IP packet that goes through the tunnel to it, bytes."""
    repairs_last_hour: int = 0
    repair_in_s: float | None = None
    """Until the next repair is tried; None if none is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord:
    """A repair that was made, and whether it helped."""

    at: float
    """Wall clock."""
    peer: str
    interface: str
    step: str
    """One of `REPAIR_STEPS`."""
    diagnosis: str
    helped: bool
    detail: str = ""
    undone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicNameStatus:
    """The name that others dial this home by, and what it was told to stand for."""

    name: str
    address: str = ""
    """What the name was last told to stand for; empty if never."""
    told_at: float | None = None
    """Wall clock of that."""
    found: str = ""
    """The address that this home has, as was last found; empty if nobody could say."""
    by: str = ""
    """Who said so."""
    answer: str = ""
    """How the last update ended."""
    next_s: float | None = None
    """Until an update may be tried, if one is due; None if none is, or none will be before the config changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelStatus:
    """All tunnels of a node."""

    node: str
    via: str
    """How WireGuard is read: `direct` or `priv`."""
    repairing: bool
    interfaces: dict[str, str] = field(default_factory=dict)
    """Each watched interface, and what is wrong with it; empty if it is well."""
    peers: list[PeerStatus] = field(default_factory=list)
    public_name: PublicNameStatus | None = None
    """None if there is none to keep."""


@interface("tunnel")
class Tunnel(Protocol):
    """The tunnels of a node."""

    @reads
    async def status(self) -> TunnelStatus:
        """Return the interfaces and all peers."""
        ...

    @reads
    async def peers(self) -> list[PeerStatus]:
        """Return how each peer is."""
        ...

    @reads
    async def repairs(self) -> list[RepairRecord]:
        """Return the last repairs, newest last."""
        ...

    async def probe(self, *, peer: str = "") -> list[PeerStatus]:
        """Probe *peer* now, or all; return how they are then. Raises CallError for an unknown peer."""
        ...

    async def repair(self, *, peer: str, step: str) -> RepairRecord:
        """Make one repair now, whatever the limits say; return whether *peer* answered after it."""
        ...

    async def asleep(self, *, peer: str, asleep: bool) -> PeerStatus:
        """Say that *peer* is switched off on purpose, or no longer: it is neither probed nor repaired until then."""
        ...


@event("system.tunnel.peer", privacy=Privacy.LOCAL, durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelChanged:
    """A peer's tunnel changed its state or its diagnosis; the topic goes on with the peer's name."""

    peer: str
    interface: str
    state: str
    """One of `TUNNEL_STATES`."""
    before: str = ""
    diagnosis: str = ""
    reason: str = ""
    endpoint: str = ""


@event("system.tunnel.quality", privacy=Privacy.LOCAL)
@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """How good the link to a peer was over the last probes; the topic goes on with the peer's name."""

    peer: str
    latency_ms: float | None
    """The median of the round trips; None if nothing came back."""
    jitter_ms: float | None
    """The mean difference of one round trip to the next."""
    loss_percent: float
    throughput_bps: float | None = None
    """Of the narrowest part of the way, from a short train of packets; None if it was not measured, or is too fast."""
    path_mtu: int | None = None


@event("system.tunnel.repair", privacy=Privacy.LOCAL, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRepair:
    """A repair was made."""

    step: str
    """One of `REPAIR_STEPS`."""
    peer: str
    helped: bool
    interface: str = ""
    diagnosis: str = ""
    detail: str = ""
    undone: bool = False
