"""A circuit breaker: a tier that does not answer is left alone for a while. Pure; times are seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Breaker:
    """Opens after failures in a row; then one try is let through at a time, ever more seldom, until one succeeds."""

    failures_most: int = 3
    least_s: float = 0.5
    most_s: float = 15.0
    failures: int = 0
    opened_at: float | None = None
    wait_s: float = 0.0
    trying: bool = False
    reason: str = ""

    def state(self, now: float) -> State:
        """Return how it is."""
        if self.opened_at is None:
            return "closed"
        return "half-open" if self.trying or now >= self.opened_at + self.wait_s else "open"

    def lets_through(self, now: float) -> bool:
        """Whether a call may be made now. Who was told so says how it ended."""
        if self.opened_at is None:
            return True
        if self.trying or now < self.opened_at + self.wait_s:
            return False
        self.trying = True
        return True

    def opens_at(self, now: float) -> float:
        """Return when the next try may be made."""
        if self.opened_at is None:
            return now
        return max(self.opened_at + self.wait_s, now)

    def succeeded(self) -> bool:
        """Note that a call was answered; returns whether it had been open."""
        was = self.opened_at is not None
        self.failures, self.opened_at, self.wait_s, self.trying, self.reason = 0, None, 0.0, False, ""
        return was

    def failed(self, now: float, reason: str) -> bool:
        """Note that a call was not answered; returns whether it opened by this."""
        self.failures += 1
        self.reason = reason
        if self.opened_at is None and self.failures < self.failures_most:
            return False
        was = self.opened_at is not None
        self.wait_s = min(max(self.wait_s * 2, self.least_s), self.most_s)
        self.opened_at, self.trying = now, False
        return not was

    def given_up(self) -> None:
        """Note that the try was cancelled: it says nothing, and another may be made."""
        self.trying = False
