"""A model and its queue: whose turn it is, without blocking the loop, and who is still using it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from sparkd import Array, CallError, CallErrorKind, Inference

if TYPE_CHECKING:  # brings numpy, which probing must not pay for
    from .pipeline import Model, Shot

MAX_WAITING = 32
"""So many calls may wait for a model; each holds its encoded picture in memory."""


class Engine:
    """A model and its queue. One picture at a time; the folder and the callers take turns."""

    def __init__(self, model: Model) -> None:
        """Queue for *model*."""
        self.model = model
        self._turn = anyio.CapacityLimiter(1)  # first come, first served
        # Callers queue here first, so that of many only one stands in line with the folder.
        self._callers = anyio.Lock()
        self._users = 0
        self._unused = anyio.Event()

    @contextmanager
    def held(self) -> Iterator[Engine]:
        """Keep the model open meanwhile."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Return when nobody holds it."""
        while self._users:
            self._unused = anyio.Event()
            await self._unused.wait()

    async def close(self) -> None:
        """Let go of the model's memory."""
        await anyio.to_thread.run_sync(self.model.backend.close, limiter=self._turn)

    async def look_at(self, shots: Sequence[Shot]) -> list[Inference]:
        """Look at several pictures as one batch. Raises as `look`."""
        return await anyio.to_thread.run_sync(self.model.look_at, shots, limiter=self._turn)

    async def look(self, image: bytes | Array, *, source: str, source_ns: int = 0) -> Inference:
        """Return what is in *image*. Raises ValueError if it is no picture, DeviceError if the runtime fails."""
        look = partial(self.model.look, image, source=source, source_ns=source_ns)
        return await anyio.to_thread.run_sync(look, limiter=self._turn)

    async def look_for_caller(self, image: bytes | Array, *, source: str) -> Inference:
        """Do the same for a call. Raises CallError if too many wait."""
        waiting = self._callers.statistics().tasks_waiting
        if waiting >= MAX_WAITING:
            raise CallError(
                CallErrorKind.UNAVAILABLE, f"{waiting} calls wait for this model", remedy="call again in a second"
            )
        async with self._callers:
            return await self.look(image, source=source)
