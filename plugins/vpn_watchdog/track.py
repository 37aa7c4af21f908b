"""What is known of a peer over time, on a clock that nobody sets. Pure.

A handshake's age is never the wall clock minus its epoch, but for the first one seen: it is the time since the epoch
was seen to change. So a clock that is set, forward or back, makes no handshake older or younger.
"""

from __future__ import annotations

from dataclasses import dataclass

from .wg import Reading, split_endpoint

INITIATION_BYTES = 148
"""A peer that wants to begin a session sends that. It may go on for ever, with nothing of ours ever reaching it: so it
is no sign that the tunnel works. All else that is counted as received is."""
OLDEST_S = 30 * 86_400.0
"""Nobody asks how long ago a handshake was beyond that; and a clock that is wrong by years says no more."""


@dataclass(slots=True)
class Track:
    """A peer's past."""

    since: float
    """When it was first seen."""
    epoch: int = 0
    handshake_at: float | None = None
    renewed_after_s: float | None = None
    """Between the last two handshakes that were seen; None if fewer were."""
    received: int = 0
    received_at: float | None = None
    """When it was last seen to grow by more than a peer's tries to begin a session."""
    sent: int = 0
    sent_at: float | None = None
    endpoint: str = ""
    moved: str = ""
    """What changed of its endpoint with the last reading: `address`, `port` or nothing."""
    restarted: bool = False
    """Whether its counters fell with the last reading: somebody made the interface or the peer anew."""
    fresh: bool = True

    def take(self, reading: Reading, *, now: float, wall: float) -> None:
        """Add what was read at *now* (clock that nobody sets) and *wall*."""
        self.restarted = not self.fresh and (reading.received < self.received or reading.sent < self.sent)
        self._take_handshake(reading, now, wall)
        before = self.received if reading.received >= self.received else 0  # it was made anew, and counts anew
        if not self.fresh and (reading.received - before) % INITIATION_BYTES:
            self.received_at = now
        if not self.fresh and reading.sent != self.sent and reading.sent:
            self.sent_at = now
        self.received, self.sent = reading.received, reading.sent
        self._take_endpoint(reading.endpoint)
        self.fresh = False

    def _take_handshake(self, reading: Reading, now: float, wall: float) -> None:
        if reading.epoch == self.epoch:
            return
        if reading.epoch == 0:
            self.handshake_at = None
        elif self.fresh:
            self.handshake_at = now - min(max(wall - reading.epoch, 0.0), OLDEST_S)
        else:
            self.renewed_after_s = None if self.handshake_at is None else now - self.handshake_at
            self.handshake_at = now
        self.epoch = reading.epoch

    def _take_endpoint(self, endpoint: str) -> None:
        self.moved = change_of(self.endpoint, endpoint)
        self.endpoint = endpoint or self.endpoint

    def age_s(self, now: float) -> float | None:
        """Return the age of the latest handshake; None if there was none."""
        return None if self.handshake_at is None else max(now - self.handshake_at, 0.0)

    def receiving(self, now: float, *, within_s: float) -> bool:
        """Whether something came from it in the last *within_s* seconds."""
        return self.received_at is not None and now - self.received_at <= within_s

    def received_since(self, then: float, now: float, *, within_s: float) -> bool:
        """Whether something came after *then*, and in the last *within_s* seconds."""
        return self.received_at is not None and self.received_at > then and self.receiving(now, within_s=within_s)

    def sending(self, now: float, *, within_s: float) -> bool:
        """Whether something went to it in the last *within_s* seconds."""
        return self.sent_at is not None and now - self.sent_at <= within_s

    def silent_s(self, now: float) -> float:
        """Return how long nothing came, as far as it was watched."""
        return now - (self.since if self.received_at is None else self.received_at)


def change_of(before: str, after: str) -> str:
    """Return what is other of an endpoint: `address`, only its `port`, or nothing."""
    if not before or not after or before == after:
        return ""
    return "port" if split_endpoint(before)[0] == split_endpoint(after)[0] else "address"
