"""The two ends of a stream of items: what may still be sent, and what has come.

The receiver gives credit, the sender spends one per item; so no more items than the window ever wait anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from sparkd.calls.frames import MAX_CREDIT
from sparkd.errors import RemoteMessageError


class Gate:
    """The sending end: lets one item through per credit, and numbers them."""

    __slots__ = ("_credit", "_more", "_next")

    def __init__(self, credit: int) -> None:
        """Begin with *credit* items allowed."""
        self._credit = min(credit, MAX_CREDIT)
        self._next = 0
        self._more: anyio.Event | None = None

    @property
    def open(self) -> bool:
        """Whether an item may be sent now."""
        return self._credit > 0

    def add(self, credit: int) -> None:
        """Allow *credit* more items. Raises RemoteMessageError for less than one."""
        if credit < 1:
            raise RemoteMessageError(f"credit of {credit} items")
        self._credit = min(self._credit + credit, MAX_CREDIT)
        if self._more is not None:
            self._more.set()

    async def wait(self) -> None:
        """Return when an item may be sent."""
        while not self._credit:
            self._more = anyio.Event()
            await self._more.wait()
        self._more = None

    def spend(self) -> int:
        """Return the number of the item that goes out now."""
        self._credit -= 1
        number = self._next
        self._next += 1
        return number


class Inbox:
    """The receiving end: items in order, then the end or an error."""

    __slots__ = ("_arrived", "_credit", "_error", "_expected", "_finished", "_grant", "_items", "_taken", "_window")

    def __init__(self, window: int, grant: Callable[[int], None]) -> None:
        """Expect *window* items at first; *grant* is called to allow more as they are taken."""
        self._window = self._credit = window
        self._grant = grant
        self._items: deque[bytes] = deque()
        self._expected = self._taken = 0
        self._arrived: anyio.Event | None = None
        self._finished = False
        self._error: Exception | None = None

    def begin(self) -> None:
        """Tell the sender of the first window, where it does not know it."""
        self._grant(self._credit)

    def put(self, n: int, body: bytes) -> None:
        """Take item *n*. Raises RemoteMessageError if it is not the next, or was not allowed."""
        if n != self._expected or self._finished:
            raise RemoteMessageError(f"item {n} of a stream where {self._expected} was next")
        if not self._credit:
            raise RemoteMessageError(f"item {n} of a stream came without credit")
        self._credit -= 1
        self._expected += 1
        self._items.append(body)
        self._wake()

    def finish(self, error: Exception | None = None) -> None:
        """Let the reader come to an end, by *error* if there is one, after the items that are here."""
        if not self._finished:
            self._finished, self._error = True, error
            self._wake()

    async def receive(self) -> bytes:
        """Return the next item. Raises StopAsyncIteration at the end, or the error the stream ended by."""
        while not self._items:
            if self._finished:
                raise self._error or StopAsyncIteration
            self._arrived = anyio.Event()
            await self._arrived.wait()
        item = self._items.popleft()
        self._taken += 1
        if self._taken * 2 >= self._window and not self._finished:
            self._credit += self._taken
            granted, self._taken = self._taken, 0
            self._grant(granted)
        return item

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None
