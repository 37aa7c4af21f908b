"""The newest frame of each source, waiting for a model. A newer one takes the place of one that still waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Waiting(Generic[F]):
    """A frame that waits."""

    source: str
    frame: F
    since: float
    """By the monotonic clock, in seconds."""


class Board(Generic[F]):
    """One slot for each source. Used on the event loop only."""

    def __init__(self, model_of: Callable[[str], str]) -> None:
        """Ask *model_of* which model looks at a source now."""
        self._model_of = model_of
        self._slots: dict[str, Waiting[F]] = {}
        self._served: dict[str, float] = {}
        self._news = anyio.Event()

    def put(self, source: str, frame: F) -> bool:
        """Put up the newest frame of *source*; return whether another waited and is dropped by it."""
        dropped = source in self._slots
        self._slots[source] = Waiting(source, frame, time.monotonic())
        self.wake()
        return dropped

    def wake(self) -> None:
        """Let everyone look again, as when other models look from now on."""
        self._news.set()
        self._news = anyio.Event()

    async def free(self, source: str, *, unless: Callable[[], bool]) -> None:
        """Return when no frame of *source* waits, or *unless* is true as the board wakes."""
        while source in self._slots and not unless():
            await self._news.wait()

    def forget(self, source: str) -> None:
        """Take down what waits of *source*."""
        self._slots.pop(source, None)

    async def take(self, model: str, most: Callable[[], int]) -> list[Waiting[F]]:
        """Return up to *most* frames for *model* as soon as there is one, of those who were served longest ago."""
        while not (names := [name for name in self._slots if self._model_of(name) == model]):
            await self._news.wait()
        names.sort(key=lambda name: self._served.get(name, 0.0))
        taken = [self._slots.pop(name) for name in names[: most()]]
        self._served |= {one.source: time.monotonic() for one in taken}
        self.wake()
        return taken
