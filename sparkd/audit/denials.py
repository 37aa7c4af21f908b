"""How many refused attempts of one caller are recorded: a flood of them must not push out what happened. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST = 10
EVERY_S = 10.0
"""After a burst, one attempt in this time is recorded; the others are counted."""
MAX_CALLERS = 256
"""Callers told apart; those that came longest ago are forgotten first."""


@dataclass(slots=True)
class _Caller:
    tokens: float
    at: float
    left_out: int = 0


class Denials:
    """A bucket of tokens for each caller, and one for all together."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Caller] = OrderedDict()
        self._all = _Caller(BURST * 10, 0.0)
        self.left_out = 0
        """Attempts without a line, of all callers, so far."""

    def admit(self, caller: str, now_s: float) -> int | None:
        """Return None if this attempt is only counted; else how many of *caller* were, since its last line."""
        held = self._callers.get(caller)
        if held is None:
            held = self._callers[caller] = _Caller(BURST, now_s)
            if len(self._callers) > MAX_CALLERS:
                self._callers.popitem(last=False)
        self._callers.move_to_end(caller)
        _refill(held, now_s, BURST, 1 / EVERY_S)
        _refill(self._all, now_s, BURST * 10, 10 / EVERY_S)
        if held.tokens < 1 or self._all.tokens < 1:
            held.left_out += 1
            self.left_out += 1
            return None
        held.tokens -= 1
        self._all.tokens -= 1
        left_out, held.left_out = held.left_out, 0
        return left_out


def _refill(held: _Caller, now_s: float, most: float, per_s: float) -> None:
    held.tokens = min(most, held.tokens + max(now_s - held.at, 0.0) * per_s)
    held.at = now_s
