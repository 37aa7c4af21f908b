"""The quality of a link, out of its last probes. Pure."""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from dataclasses import dataclass, field

WINDOW = 36
"""Packets: a minute of probes while all is well."""


@dataclass(slots=True)
class Quality:
    """The last probe packets of a peer."""

    trips_ms: deque[float | None] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Round trips; None for a packet that was lost."""

    def add(self, trips_ms: list[float | None]) -> None:
        """Add packets, oldest first."""
        self.trips_ms.extend(trips_ms)

    def begin_anew(self) -> None:
        """Forget: what was lost while the tunnel was down says nothing of it now."""
        self.trips_ms.clear()

    @property
    def latency_ms(self) -> float | None:
        """The median of the round trips."""
        known = self._known()
        return round(statistics.median(known), 3) if known else None

    @property
    def jitter_ms(self) -> float | None:
        """The mean difference of one round trip to the next."""
        known = self._known()
        steps = [abs(after - before) for before, after in itertools.pairwise(known)]
        return round(statistics.fmean(steps), 3) if steps else None

    @property
    def loss_percent(self) -> float | None:
        """The share of packets that were not answered; None if none was sent."""
        if not self.trips_ms:
            return None
        return round(100 * self.trips_ms.count(None) / len(self.trips_ms), 1)

    def _known(self) -> list[float]:
        return [trip for trip in self.trips_ms if trip is not None]


def train_bps(arrivals_s: list[float], packet_bytes: int) -> float | None:
    """Return the throughput that a train of packets shows, by how far apart its answers came.

    None if fewer than half a dozen came, or within 2 ms: then the link is faster than so few packets can tell.
    """
    if len(arrivals_s) < 6:  # noqa: PLR2004 - said above
        return None
    spread_s = max(arrivals_s) - min(arrivals_s)
    if spread_s < 0.002:  # noqa: PLR2004 - said above
        return None
    return round((len(arrivals_s) - 1) * packet_bytes * 8 / spread_s)
