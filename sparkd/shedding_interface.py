"""`shedding`: services that rest or are slowed while power is short, asked of the core. Layer: values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sparkd.interfaces import interface, reads
from sparkd.service import EnergyClass
from sparkd.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLoad:
    """A service, and whether it rests."""

    name: str
    plugin: str
    energy: EnergyClass
    """As configured, else as the plugin says."""
    state: State
    shed: bool = False
    throttle_percent: float | None = None
    """Of one processor; None if nothing slows it."""
    by: str = ""
    """Who asked for it."""


@interface("shedding")
class SheddingApi(Protocol):
    """Which services rest, or are slowed.

    What a service has asked for is undone by the core when that service has not run for a minute: nothing stays down
    because its power policy died. An operator's `start` brings a shed service up; it rests again only when it is asked
    to anew. A restart of the daemon forgets all of it.
    """

    @reads
    async def services(self) -> list[ServiceLoad]:
        """Return every service of this node."""
        ...

    async def shed(self, *, services: list[str], reason: str, remedy: str = "") -> list[str]:
        """Let *services* rest; return those that do, once they have ended. What an operator stopped is left alone.

        *reason* and *remedy* are what `sparkctl status` shows. Raises CallError for a service that is not there; then
        nothing is done.
        """
        ...

    async def restore(self, *, services: list[str]) -> list[str]:
        """Let *services* that rest run again; return them once they run, or have tried to."""
        ...

    async def throttle(self, *, service: str, cpu_max_percent: float, reason: str) -> bool:
        """Give *service* so much of one processor and no more; return whether the kernel keeps it to that.

        A lower limit in its config stays. It holds through restarts of the service.
        """
        ...

    async def unthrottle(self, *, service: str) -> None:
        """Give *service* back what its config allows."""
        ...
