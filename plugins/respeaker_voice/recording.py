"""An utterance while it is spoken: several may read it, each from its beginning, and each to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

from .happenings import Ended

RATE_HZ = 16_000


class Recording:
    """The sound of one utterance, as far as it was heard."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._pieces: list[bytes] = []
        self._news = anyio.Event()
        self._limits: list[tuple[anyio.CancelScope, float]] = []
        self.ended: Ended | None = None
        """How it ended; None while it is spoken."""
        self.over = anyio.Event()

    @property
    def pcm(self) -> bytes:
        """All of it so far: 16 bits, little-endian, one channel, 16 kHz."""
        return b"".join(self._pieces)

    def add(self, pcm: bytes) -> None:
        """Take the next piece."""
        self._pieces.append(pcm)
        self._tell()

    def end(self, ended: Ended) -> None:
        """Take it that nothing more comes. From now on what was promised with `limit` runs."""
        self.ended = ended
        now = anyio.current_time()
        for scope, seconds in self._limits:
            scope.deadline = now + seconds
        self.over.set()
        self._tell()

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield it from its beginning to its end, as it comes."""
        index = 0
        while True:
            if index < len(self._pieces):
                piece = b"".join(self._pieces[index:])
                index = len(self._pieces)
                yield piece
            elif self.ended is not None:
                return
            else:
                await self._news.wait()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Cancel what is within *seconds* after the utterance is over; the scope says whether that was needed."""
        with anyio.CancelScope() as scope:
            if self.ended is not None:
                scope.deadline = anyio.current_time() + seconds
            self._limits.append((scope, seconds))
            try:
                yield scope
            finally:
                self._limits.remove((scope, seconds))

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()
