"""`power`: what is answered to those who ask."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from sparkd import POWER_MODES, CallError, CallErrorKind, Context, EnergyReport, PowerAction, PowerMode, PowerStatus

from .meter import EnergyMeter
from .modes import Mode

if TYPE_CHECKING:
    from .service import Monitor

MAX_HOLD_S = 7 * 86_400.0


class Answers:
    """The handler of the interface `power`."""

    def __init__(self, ctx: Context[Any], monitor: Monitor, meter: EnergyMeter) -> None:
        self._ctx = ctx
        self._monitor = monitor
        self._meter = meter

    async def mode(self) -> PowerMode:
        """Return this node's mode."""
        monitor = self._monitor
        return PowerMode(mode=monitor.mode, scope="node", name=self._ctx.node, reason=monitor.reason)

    async def status(self) -> PowerStatus:
        """Return modes, values, sources and what was done."""
        return self._monitor.status()

    async def plan(self, *, mode: str) -> list[PowerAction]:
        """Return what would be done now if the node came to *mode*."""
        return await self._monitor.plan(_mode(mode))

    async def energy(self) -> EnergyReport:
        """Return what was used, and by whom."""
        return self._meter.report()

    async def hold(self, *, mode: str, seconds: float = 3600.0) -> PowerStatus:
        """Keep *mode* for so long, whatever the sources say."""
        if not (isfinite(seconds) and 0 < seconds <= MAX_HOLD_S):
            message = f"power.hold: 'seconds' from 0 to {MAX_HOLD_S:.0f} expected, got {seconds:g}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message)
        self._monitor.hold(_mode(mode), seconds)
        return self._monitor.status()

    async def release(self) -> PowerStatus:
        """Go by the sources again."""
        self._monitor.hold(None)
        return self._monitor.status()


def _mode(name: str) -> Mode:
    try:
        return Mode(name)
    except ValueError:
        message = f"mode: one of {', '.join(POWER_MODES)} expected, got {name!r}"
        raise CallError(CallErrorKind.INVALID_PARAMS, message) from None
