"""What all watches of this service share."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sparkd import Context, RepairRecord, Troubles

from .access import Wg
from .clock import ClockWatch
from .config import VpnWatchdogConfig
from .figures import Figures
from .memory import Memory
from .modes import Modes
from .names import Names


@dataclass(slots=True, kw_only=True)
class Parts:
    """One set a service."""

    ctx: Context[VpnWatchdogConfig]
    wg: Wg
    clock: ClockWatch
    names: Names
    memory: Memory
    modes: Modes
    figures: Figures
    troubles: Troubles
    repairs: deque[RepairRecord] = field(default_factory=lambda: deque(maxlen=100))

    @property
    def config(self) -> VpnWatchdogConfig:
        """The service's own table."""
        return self.ctx.config

    @property
    def fresh_s(self) -> float:
        """How old what `wg` said may be: all peers of an interface are looked at by one reading."""
        return self.config.interval_s / 5

    def now(self) -> float:
        """Return the clock that nobody sets."""
        return self.clock.clock.mono()

    def wall(self) -> float:
        """Return the clock that anybody may set."""
        return self.clock.clock.wall()
