"""Telling somebody what became of a call that passes the router, before the caller is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from sparkd.calls.endpoint import Endpoint
from sparkd.calls.frames import End, Failure, Head, Open, Request
from sparkd.errors import CallError

Finish = Callable[[str], Awaitable[None]]
"""Told the outcome of a call; the answer goes to the caller when it returns. It must not raise."""


class Witness(Protocol):
    """Who is told of the calls of services and nodes."""

    def began(self, kind: str, name: str, request: Request, body: bytes, service: str) -> Finish | None:
        """Learn that *name* calls *service*; return whom to tell the outcome, or None if it is of no interest."""
        ...

    def refused(self, kind: str, name: str, request: Request, body: bytes, rule: str) -> None:
        """Learn that a call was refused by *rule*."""
        ...


class Watched(Endpoint):
    """Stands for the caller's endpoint in one call: what the caller would hear of its end is told to a witness first.

    Only what an exchange needs of an endpoint is here; the tables of calls are those of the endpoint it stands for.
    """

    def __init__(self, endpoint: Endpoint, finish: Finish) -> None:
        """Stand for *endpoint*; tell *finish* the outcome."""
        self.name = endpoint.name
        self.tasks = endpoint.tasks
        self.counts = endpoint.counts
        self._real = endpoint
        self._finish = finish
        self._told = False

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._real.closed

    def send(self, head: Head, body: bytes = b"") -> None:
        """Send a message; an end waits until it is recorded, and what comes before it was sent by then."""
        if isinstance(head, End | Failure) and head.answer and not self._told:
            self._tell("ok" if isinstance(head, End) else head.kind[:100], partial(self._give, head, body))
            return
        self._real.send(head, body)
        if isinstance(head, Open):
            self._tell("stream", None)

    def fail(self, call_id: int, error: CallError) -> None:
        """Answer with *error*, once that is recorded."""
        if self._told:
            self._real.fail(call_id, error)
        else:
            self._tell(error.kind.value, partial(self._real.fail, call_id, error))

    def forget(self, call_id: int, *, answering: bool) -> None:
        """End the exchange; one that ends without an answer was cancelled."""
        if answering and not self._told:
            self._tell("cancelled", None)
        self._real.forget(call_id, answering=answering)

    def _give(self, head: End | Failure, body: bytes) -> None:
        try:
            self._real.send(head, body)
        except CallError as error:
            self._real.fail(head.id, error)

    def _tell(self, outcome: str, then: Callable[[], None] | None) -> None:
        if not self._told:
            self._told = True
            self.tasks.start_soon(self._record, outcome, then)

    async def _record(self, outcome: str, then: Callable[[], None] | None) -> None:
        await self._finish(outcome)
        if then is not None:
            then()
