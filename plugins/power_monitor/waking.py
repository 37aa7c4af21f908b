"""Waking other machines when the mains are back."""

from __future__ import annotations

from typing import Any

import anyio

from sparkd import CallError, Context, LinkChanged, MachineApi

from .acting import Journal, Told
from .config import PowerMonitorConfig
from .modes import Mode
from .shutting import ASK_S, linked

AGAIN_S = 30.0
TRIES = 20
"""A magic packet gets lost, and one that comes while a machine is still going off does nothing: it is sent again until
the machine is linked, for ten minutes."""


class Waking:
    """Wakes the hosts of the config that are not linked, or that were asked to go off and are on their way."""

    def __init__(self, ctx: Context[PowerMonitorConfig], journal: Journal, asked_off: set[str]) -> None:
        """Wake what `ctx.config.wake` names; those in *asked_off* go before they come."""
        self._ctx = ctx
        self._journal = journal
        self._asked_off = asked_off
        self._scope: anyio.CancelScope | None = None
        self._told: set[str] = set()

    def cancel(self) -> None:
        """Wake nobody any more."""
        if self._scope is not None:
            self._scope.cancel()

    async def run(self) -> None:
        """Wake until all are linked, or have been tried often enough."""
        self._told = set()
        with anyio.CancelScope() as self._scope:
            async with self._ctx.bus.subscribe(LinkChanged) as changes:
                for _ in range(TRIES):
                    if not await self._wake():
                        return
                    with anyio.move_on_after(AGAIN_S):
                        await self._news(changes)

    async def _wake(self) -> bool:
        """Send a packet to each that is not there; return whether any is missing, or will be."""
        there = await linked(self._ctx)
        self._asked_off &= there  # who is gone has done what it was asked
        missing = [host for host in self._ctx.config.wake if host not in there]
        for host in missing:
            await self._send(host)
        return bool(missing) or bool(self._asked_off & set(self._ctx.config.wake))

    async def _send(self, host: str) -> None:
        state: Told = "dry-run" if self._ctx.config.dry_run else "done"
        reason = ""
        try:
            if state == "done":
                await self._ctx.call(MachineApi, deadline_s=ASK_S).wake(host=host)
        except CallError as error:
            state, reason = "failed", str(error)
        if host not in self._told:
            self._told.add(host)
            await self._journal.note("wake", host, mode=Mode.ON_GRID, state=state, reason=reason)

    async def _news(self, changes: Any) -> None:
        """Return when a host of the config is not linked any more, or is."""
        while True:
            if (await anext(changes)).event.peer in self._ctx.config.wake:
                return
