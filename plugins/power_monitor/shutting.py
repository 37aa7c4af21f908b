"""Going off in order at the end of a battery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from sparkd import CallError, CallErrorKind, Context, LinkChanged, MachineApi, Troubles

from .acting import Journal, Told
from .config import PowerMonitorConfig
from .modes import Mode
from .policy import turn_of

TROUBLE = "shutdown"
RETRY_S = 60.0
ASK_S = 20.0
PERHAPS = {CallErrorKind.DEADLINE, CallErrorKind.CANCELLED, CallErrorKind.UNAVAILABLE}
"""Errors after which a node may be on its way off all the same: its answer can be lost with its link."""


class Shutting:
    """Brings this node, and those it asks, off in their order."""

    def __init__(self, ctx: Context[PowerMonitorConfig], journal: Journal, troubles: Troubles) -> None:
        self._ctx = ctx
        self._journal = journal
        self._troubles = troubles
        self._scope: anyio.CancelScope | None = None
        self.asked = False
        """Whether root was asked already: from there is no way back."""
        self.asked_off: set[str] = set()
        """The nodes that this one has asked to go off, and that did not refuse."""

    @property
    def under_way(self) -> bool:
        """Whether this node is on its way off."""
        return self._scope is not None or self.asked

    async def cancel(self, mode: Mode) -> None:
        """Stay on after all, if root was not asked yet."""
        if self._scope is not None and not self.asked:
            self._scope.cancel()
            await self._journal.note("shutdown", self._ctx.node, mode=mode, state="cancelled", reason="power is back")

    async def go(self, mode: Mode, reason: str) -> None:
        """Wait for this node's turn, then switch it off. Tries again for as long as it is not cancelled."""
        with anyio.CancelScope() as self._scope:
            await self._journal.note("shutdown", self._ctx.node, mode=mode, state="planned", reason=reason)
            await self._wait_for_turn(mode, reason)
            while not await self._off(mode, reason):  # noqa: ASYNC110 - it is tried again, not waited for
                await anyio.sleep(RETRY_S)
        self._scope = None
        self._troubles.over(TROUBLE)

    async def _wait_for_turn(self, mode: Mode, reason: str) -> None:
        config = self._ctx.config.shutdown
        turn = turn_of(self._ctx.node, config)
        for stage in turn.before:
            await self._ask([node for node in stage if node in config.asks], mode, reason, delay_s=0)
            if not self._ctx.config.dry_run:
                await self._gone(stage, config.stage_limit_s)
        later = [node for node in turn.after if node in config.asks]
        await self._ask(later, mode, reason, delay_s=int(config.stage_limit_s))

    async def _ask(self, nodes: Sequence[str], mode: Mode, reason: str, *, delay_s: int) -> None:
        dry_run = self._ctx.config.dry_run
        for node in nodes:
            try:
                machine = self._ctx.call(MachineApi, node=node, deadline_s=ASK_S)
                said = await machine.shutdown(delay_s=delay_s, dry_run=dry_run)
            except CallError as error:
                perhaps = error.kind in PERHAPS and not dry_run
                self.asked_off |= {node} if perhaps else set()
                await self._journal.note("shutdown", node, mode=mode, state="failed", reason=str(error))
            else:
                state: Told = "dry-run" if dry_run else "done"
                self.asked_off |= set() if dry_run else {node}
                await self._journal.note("shutdown", node, mode=mode, state=state, reason=f"{said}: {reason}")

    async def _gone(self, nodes: Sequence[str], limit_s: float) -> None:
        """Return when none of *nodes* is linked any more, or after *limit_s*."""
        with anyio.move_on_after(limit_s):
            async with self._ctx.bus.subscribe(LinkChanged) as changes:
                while set(nodes) & await linked(self._ctx):
                    await anext(changes)

    async def _off(self, mode: Mode, reason: str) -> bool:
        dry_run = self._ctx.config.dry_run
        try:
            self.asked = not dry_run
            said = await self._ctx.call(MachineApi, deadline_s=ASK_S).shutdown(dry_run=dry_run)
        except CallError as error:
            self.asked = False
            self._troubles.say(
                TROUBLE,
                f"this machine cannot be switched off: {error}",
                str(error.data.get("remedy") or "see /etc/sparkd/priv.toml"),
            )
            await self._journal.note("shutdown", self._ctx.node, mode=mode, state="failed", reason=str(error))
            return False
        state: Told = "dry-run" if dry_run else "done"
        await self._journal.note("shutdown", self._ctx.node, mode=mode, state=state, reason=f"{said}: {reason}")
        return True


async def linked(ctx: Context[Any]) -> set[str]:
    """Return the nodes that are linked with this one now."""
    try:
        status = await ctx.request("node.status", deadline_s=5.0)
    except CallError:
        return set()
    return {link["peer"] for link in status["links"] if link["connected"]}
