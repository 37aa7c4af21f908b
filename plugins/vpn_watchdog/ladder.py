"""Which repair is next: in rising order, with back-off and a limit per hour. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

TELL = "tell-operator"
HOUR_S = 3600.0
ALL = ("re-resolve", "reset-peer", "new-port", "restart-interface")
PLANS: dict[str, tuple[str, ...]] = {
    "no-answer": ALL,
    "udp-blocked": ALL,
    "endpoint-moved": ALL,
    "peer-unreachable": ("re-resolve", "reset-peer", "new-port"),
    "peer-down": ("re-resolve",),
    "endpoint-unknown": ("re-resolve",),
    "interface-missing": ("restart-interface",),
}
"""What may help, by diagnosis. Nothing of it does where a diagnosis is not here: no network, a captive portal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be done."""

    steps: tuple[str, ...]
    per_hour: int
    backoff_s: float
    backoff_most_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to do now: a step, or nothing, and why."""

    step: str = ""
    why: str = ""
    at: float | None = None
    """When to ask again, if that is known."""


@dataclass(slots=True)
class Ladder:
    """The repairs of one peer."""

    limits: Limits
    made: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """When repairs were made."""
    tried: list[str] = field(default_factory=list)
    """The steps of this climb, in vain."""
    climbs: int = 0
    """How often all was tried in vain since the tunnel last worked."""
    told: bool = False
    not_before: float = float("-inf")
    helped: dict[str, list[int]] = field(default_factory=dict)
    """How often each step was made, and how often it helped."""

    def next(self, now: float, word: str, *, hindrance: Callable[[str], str]) -> Choice:
        """Return what to do about *word*, a diagnosis; *hindrance* says why a step may not be made now, or nothing."""
        if now < self.not_before:
            return Choice(why="waiting after a climb in vain", at=self.not_before)
        for step in PLANS.get(word, ()):
            if step in self.tried or step not in self.limits.steps or hindrance(step):
                continue
            if self.last_hour(now) >= self.limits.per_hour:
                return self._tell(f"{self.limits.per_hour} repairs were made within an hour", self.made[0] + HOUR_S)
            return Choice(step=step)
        return self._climbed(now)

    def _climbed(self, now: float) -> Choice:
        if self.tried:
            self.tried.clear()
            self.not_before = now + min(self.limits.backoff_s * 2**self.climbs, self.limits.backoff_most_s)
            self.climbs = min(self.climbs + 1, 30)
        return self._tell("nothing that could be tried helped", self.not_before if self.not_before > now else None)

    def _tell(self, why: str, at: float | None) -> Choice:
        tell = not self.told and TELL in self.limits.steps
        self.told = True
        return Choice(step=TELL if tell else "", why=why, at=at)

    def note(self, step: str, *, helped: bool, now: float) -> None:
        """Remember that *step* was made, and whether it helped."""
        if step == TELL:
            return
        counted = self.helped.setdefault(step, [0, 0])
        counted[0] += 1
        counted[1] += helped
        self.made.append(now)
        self.tried.append(step)

    def skip(self, step: str) -> None:
        """Remember that *step* had nothing to do in this climb: it is no repair, and not counted."""
        self.tried.append(step)

    def over(self) -> None:
        """The tunnel works: the next loss begins at the bottom. What was made within the hour still counts."""
        self.tried.clear()
        self.climbs, self.told, self.not_before = 0, False, float("-inf")

    def last_hour(self, now: float) -> int:
        """Return how many repairs were made within the last hour."""
        while self.made and self.made[0] <= now - HOUR_S:
            self.made.popleft()
        return len(self.made)

    def again(self, step: str) -> None:
        """Let *step* be tried at once, for there is news: a name stands for another address than when it was tried."""
        self.tried = [one for one in self.tried if one != step]
        self.not_before = float("-inf")
