"""Single flight: of all who want the same at once, one asks, and all get its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

T = TypeVar("T")


@dataclass(slots=True)
class _Flight:
    landed: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    waiting: int = 0
    value: Any = None
    error: Exception | None = None


class Flights(Generic[T]):
    """Deeds under way, by what they are for. One runs in *tasks*, so that who began it may go and others still wait."""

    def __init__(self, tasks: TaskGroup) -> None:
        """Run deeds in *tasks*."""
        self._tasks = tasks
        self._flying: dict[Hashable, _Flight] = {}

    async def of(self, what: Hashable, deed: Callable[[], Awaitable[T]]) -> T:
        """Return what *deed* returns, or raise what it raises; if one for *what* is under way, that one's.

        A deed that nobody waits for any more is cancelled.
        """
        flight = self._flying.get(what)
        if flight is None:
            flight = self._flying[what] = _Flight()
            self._tasks.start_soon(self._fly, what, flight, deed)
        flight.waiting += 1
        try:
            await flight.landed.wait()
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.landed.is_set():
                self._flying.pop(what, None)
                flight.scope.cancel()
        if flight.error is not None:
            raise flight.error
        value: T = flight.value
        return value

    async def _fly(self, what: Hashable, flight: _Flight, deed: Callable[[], Awaitable[T]]) -> None:
        with flight.scope:
            try:
                flight.value = await deed()
            except Exception as error:  # noqa: BLE001 - it is raised at all who wait
                flight.error = error
        if self._flying.get(what) is flight:
            del self._flying[what]
        flight.landed.set()
