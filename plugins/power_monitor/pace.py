"""How often a source that must be asked is asked."""

from __future__ import annotations

from dataclasses import dataclass

CONFIRM_S = 0.2
"""After the mains came or went they are looked at again so soon: a change that matters must be said twice."""


@dataclass(slots=True)
class Pace:
    """Remembers what was said of the mains."""

    interval_s: float
    _mains: bool | None = None

    def after(self, mains: bool | None) -> float:  # noqa: FBT001 - what a reading holds
        """Return how long to wait after a reading that says *mains*."""
        changed = mains is not self._mains
        self._mains = mains
        return min(CONFIRM_S, self.interval_s) if changed else self.interval_s
