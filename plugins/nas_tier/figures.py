"""What is counted, for `stats` and for Prometheus. No label says anything of a key; a namespace is none either."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

WINDOW = 256
"""Answers that the usual time of a tier is taken from."""
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Figures:
    """All counters of the service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them."""
        tier = ["tier"]
        self.hits = Counter("sparkd_memory_hits", "Reads that a tier answered", tier, registry=registry)
        self.misses = Counter("sparkd_memory_misses", "Reads that a tier had nothing for", tier, registry=registry)
        self.errors = Counter("sparkd_memory_errors", "Calls that a tier failed", [*tier, "kind"], registry=registry)
        self.seconds = Histogram(
            "sparkd_memory_seconds", "Calls to a tier", [*tier, "call"], buckets=BUCKETS, registry=registry
        )
        self.bytes = Counter("sparkd_memory_bytes", "Of values", [*tier, "way"], registry=registry)
        self.breaker = Gauge("sparkd_memory_breaker", "0 closed, 1 half-open, 2 open", tier, registry=registry)
        self.behind = Gauge("sparkd_memory_behind", "Writes that a tier has not got yet", tier, registry=registry)
        self.answers = Counter("sparkd_memory_answers", "Reads", ["as"], registry=registry)
        self.writes = Counter("sparkd_memory_writes", "Writes of this node", registry=registry)
        self.lost_races = Counter(
            "sparkd_memory_lost_races", "Writes older than another of their key, kept as history", registry=registry
        )
        self.healed = Counter("sparkd_memory_healed", "Damaged values brought back", registry=registry)
        self.damaged = Counter("sparkd_memory_damaged", "Damaged values nobody has a copy of", registry=registry)


@dataclass(slots=True)
class Counts:
    """Of the whole service, for `stats`."""

    hits: int = 0
    misses: int = 0
    stale: int = 0
    writes: int = 0
    lost_races: int = 0
    healed: int = 0
    damaged: int = 0


@dataclass(slots=True)
class TierCounts:
    """Of one tier."""

    hits: int = 0
    misses: int = 0
    errors: int = 0
    slow: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _sorted: list[float] = field(default_factory=list)
    _due: int = 0

    def took(self, seconds: float) -> None:
        """Add how long a read took."""
        self.seconds.append(seconds)
        self._due -= 1

    def quantile(self, share: float) -> float | None:
        """Return the time that *share* of the last reads took at most; None if there were too few to say."""
        if len(self.seconds) < 8:  # noqa: PLR2004 - a guess out of fewer is none
            return None
        if self._due <= 0:
            self._sorted, self._due = sorted(self.seconds), 32
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]
