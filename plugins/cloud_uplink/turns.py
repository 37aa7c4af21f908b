"""Turns at the link: how many batches are under way at once, and whose is next.

Fresh records go before history, then higher priority first, then first come first served. As each lane has one batch
under way at the most, first come first served is round-robin between streams. One place is never given to history, so
a fresh record does not even wait for a batch of history to arrive.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(order=True, slots=True)
class _Waiter:
    history: bool
    urgency: int
    number: int
    granted: anyio.Event = field(compare=False)
    gone: bool = field(default=False, compare=False)


class Turns:
    """A limit on batches under way, with an order."""

    def __init__(self, places: int) -> None:
        """Allow *places* batches at once, all but one of them (but one at least) to history."""
        self._free = places
        self._free_history = max(1, places - 1)
        self._waiting: list[_Waiter] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, *, history: bool, priority: int) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        waiter = _Waiter(history, -priority, next(self._numbers), anyio.Event())
        heapq.heappush(self._waiting, waiter)
        self._grant()
        try:
            await waiter.granted.wait()
            yield
        finally:
            if waiter.granted.is_set():
                self._free += 1
                self._free_history += history
            waiter.gone = True
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._free:
            waiter = self._waiting[0]
            if not waiter.gone:
                if waiter.history and not self._free_history:
                    return  # whoever is fresh sorts before it, so nobody else can go either
                self._free -= 1
                self._free_history -= waiter.history
                waiter.granted.set()
            heapq.heappop(self._waiting)
