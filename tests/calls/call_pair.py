"""Two endpoints joined in memory, as two processes would be: a message is delivered later, never during `send`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from sparkd.calls.endpoint import Accept, Endpoint
from sparkd.errors import CallError, CallErrorKind


@dataclass
class Wire:
    """One direction of a connection; `cut` makes the peer gone, `stuck` makes it not read."""

    tasks: TaskGroup
    queue: deque[list[bytes]] = field(default_factory=deque)
    sent: list[list[bytes]] = field(default_factory=list)
    cut: bool = False
    stuck: bool = False
    deliver: Callable[[list[bytes]], None] = lambda _frames: None
    pending: bool = False

    def send(self, frames: list[bytes], /) -> None:
        if self.cut or self.stuck:
            raise CallError(CallErrorKind.UNAVAILABLE, "gone" if self.cut else "peer does not read")
        self.sent.append(frames)
        self.queue.append(frames)
        if not self.pending:
            self.pending = True
            self.tasks.start_soon(self.flush)

    async def flush(self) -> None:
        self.pending = False
        while self.queue:
            self.deliver(self.queue.popleft())


@dataclass
class Pair:
    left: Endpoint
    right: Endpoint
    to_right: Wire
    to_left: Wire
    tasks: TaskGroup

    def die(self) -> None:
        """Cut the connection, as the death of the right side would."""
        self.to_right.cut = self.to_left.cut = True
        self.left.close("gone")
        self.right.close("gone")


def nobody(endpoint: Endpoint, request: object, body: bytes) -> object:
    raise CallError(CallErrorKind.UNKNOWN_METHOD, "nothing is served here")


MakePair = Callable[..., "AsyncIterator[Pair]"]


@pytest.fixture
def make_pair() -> Callable[..., object]:
    @asynccontextmanager
    async def make(right: Accept, left: Accept = nobody, **options: Any) -> AsyncIterator[Pair]:  # type: ignore[assignment]
        async with anyio.create_task_group() as tasks:
            to_right, to_left = Wire(tasks), Wire(tasks)
            pair = Pair(
                Endpoint(to_right, accept=left, tasks=tasks, name="right"),
                Endpoint(to_left, accept=right, tasks=tasks, name="left", **options),
                to_right,
                to_left,
                tasks,
            )
            to_right.deliver, to_left.deliver = pair.right.feed, pair.left.feed
            yield pair
            tasks.cancel_scope.cancel()

    return make
