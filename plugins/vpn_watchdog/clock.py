"""Two clocks: the wall's, which may be set at any time, and one that nobody sets and that goes on in sleep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class Clock:
    """The machine's clocks. A test puts its own in this place."""

    def wall(self) -> float:
        """Return seconds since 1970, as far as this machine knows."""
        return time.time()

    def mono(self) -> float:
        """Return seconds since the machine started, those it slept through too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class ClockWatch:
    """Notices when the wall clock is set."""

    clock: Clock
    least_s: float
    _offset: float = field(init=False)
    stepped_s: float = 0.0
    """The last step: positive if the clock was put forward."""
    stepped_at: float = float("-inf")
    """When that was, on the clock that nobody sets."""

    def __post_init__(self) -> None:
        self._offset = self.clock.wall() - self.clock.mono()

    def look(self) -> None:
        """Compare the clocks; what NTP does slowly, too little a look to be a step, is followed."""
        offset = self.clock.wall() - self.clock.mono()
        if abs(offset - self._offset) >= self.least_s:
            self.stepped_s, self.stepped_at = offset - self._offset, self.clock.mono()
        self._offset = offset
