"""What waits while power is short: history does, fresh records never."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import anyio
from anyio.abc import TaskStatus

from sparkd import Context, PowerMode


class Thrift:
    """Whether history may be shipped now."""

    def __init__(self, modes: Collection[str]) -> None:
        """Let history wait in each power mode of *modes*."""
        self._modes = frozenset(modes)
        self._may = anyio.Event()
        self._may.set()

    @property
    def holds(self) -> bool:
        """Whether history waits."""
        return not self._may.is_set()

    def take(self, mode: str) -> bool:
        """Note the node's mode; return whether history began or ceased to wait by it."""
        holds = mode in self._modes
        if holds is self.holds:
            return False
        if holds:
            self._may = anyio.Event()
        else:
            self._may.set()
        return True

    async def history(self) -> None:
        """Return when history may be shipped."""
        await self._may.wait()

    async def follow(self, ctx: Context[Any], *, task_status: TaskStatus[None]) -> None:
        """Heed the power modes of this node for ever."""
        async with ctx.bus.subscribe(PowerMode) as news:
            for received in await ctx.bus.retained(PowerMode):
                self._heed(ctx, received.event)
            task_status.started()
            async for received in news:
                self._heed(ctx, received.event)

    def _heed(self, ctx: Context[Any], said: PowerMode) -> None:
        if said.scope == "node" and said.name == ctx.node and self.take(said.mode):
            ctx.log.info("history waits" if self.holds else "history goes on", mode=said.mode)
