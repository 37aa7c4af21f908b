"""Bounded queues: what waits for a slow peer is limited in number and in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out; `push` refuses instead of waiting. One item always fits, however large."""

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: T, size: int) -> bool:
        """Append *item* of *size* bytes; return False if there is no room for it."""
        if self._items and (len(self._items) >= self._max_items or self._bytes + size > self._max_bytes):
            return False
        self._items.append((item, size))
        self._bytes += size
        return True

    def first(self) -> T:
        """Return the oldest item, without taking it. Raises IndexError if there is none."""
        return self._items[0][0]

    def pop(self) -> T:
        """Take the oldest item. Raises IndexError if there is none."""
        item, size = self._items.popleft()
        self._bytes -= size
        return item


class Lanes:
    """What goes out to one peer: calls before events, each lane in order, nothing sent out of turn."""

    def __init__(self, send: Callable[[Sequence[bytes]], bool], *, max_items: int, max_bytes: int) -> None:
        """Give messages to *send*, which returns False while the peer has no room."""
        self._send = send
        self._calls: BoundedQueue[Sequence[bytes]] = BoundedQueue(max_items=max_items, max_bytes=max_bytes)
        self._events: BoundedQueue[Sequence[bytes]] = BoundedQueue(max_items=max_items, max_bytes=max_bytes)

    def call(self, frames: Sequence[bytes]) -> bool:
        """Send or queue a message of a call, or of the link itself; return False if there is no room."""
        if not self._calls and self._send(frames):
            return True
        return self._calls.push(frames, sum(map(len, frames)))

    def event(self, frames: Sequence[bytes]) -> bool:
        """Send or queue an event, behind all else; return False if there is no room."""
        if not self._calls and not self._events and self._send(frames):
            return True
        return self._events.push(frames, sum(map(len, frames)))

    def flush(self) -> None:
        """Send what waits, as far as the peer has room."""
        for lane in (self._calls, self._events):
            while lane:
                if not self._send(lane.first()):
                    return
                lane.pop()
