"""What this node knows of one peer of its config: the rules, the session if there is one, and what status tells."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import anyio

from sparkd.core_interfaces import LinkStatus
from sparkd.link.complaints import Counts
from sparkd.link.frames import Greeting
from sparkd.link.rules import PeerRules, PeerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is, as it greets others."""

    name: str
    node_id: str
    site: str
    role: str
    version: str = ""


@dataclass(slots=True)
class Peer:
    """A peer, connected or not. One life for each table `[link.peers.NAME]`."""

    name: str
    settings: PeerSettings
    rules: PeerRules
    counts: Counts = field(default_factory=Counts)
    """What was refused or dropped, by reason."""
    sent: int = 0
    received: int = 0
    reconnects: int = 0
    """How many times the link came up again."""
    greeting: Greeting | None = None
    """How the peer introduced itself; None while it is not connected."""
    dialed: bool = False
    """Whether the present connection was made by this side."""
    address: str = ""
    """Where it connected from, for a peer that dials."""
    since: float = field(default_factory=time.time)
    reason: str = ""
    remedy: str = ""
    rtt_ms: float | None = None
    barred: bool = True
    """Whether `reason` speaks of this node's own key files, or of nothing yet."""
    hello_under_way: bool = False
    """Whether this side has dialed and said hello, and waits for the answer."""
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _seen: bool = False

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return self.greeting is not None

    def up(self, greeting: Greeting, *, dialed: bool, address: str) -> None:
        """Record that the link to the peer came up."""
        self.reconnects += self._seen
        self._seen = True
        self.greeting, self.dialed, self.address = greeting, dialed, address
        self.since, self.reason, self.remedy = time.time(), "", ""
        self.nudge()

    def down(self, reason: str, remedy: str = "") -> None:
        """Record that the link is down, or still down, and why."""
        if self.connected:
            self.since = time.time()
        self.greeting, self.rtt_ms = None, None
        self.reason, self.remedy = reason, remedy
        self.nudge()

    def nudge(self) -> None:
        """Wake whoever waits for a change of this peer's state, or of the keys."""
        self._changed.set()
        self._changed = anyio.Event()

    async def changed(self) -> None:
        """Wait for the next `nudge`."""
        await self._changed.wait()

    def status(self) -> LinkStatus:
        """Return what `sparkctl status` shows."""
        dials = self.dialed if self.connected else bool(self.settings.address)
        return LinkStatus(
            peer=self.name,
            direction="dial" if dials else "listen",
            address=self.settings.address if dials else self.address,
            connected=self.connected,
            since=self.since,
            reason=self.reason,
            remedy=self.remedy,
            rtt_ms=self.rtt_ms,
            sent=self.sent,
            received=self.received,
            refused=self.counts.plain(),
            reconnects=self.reconnects,
        )
