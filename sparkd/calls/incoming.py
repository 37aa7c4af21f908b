"""A call the peer makes: the handler's task, its streams, the one answer it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from sparkd.calls.endpoint import Answer, Endpoint
from sparkd.calls.frames import DEFAULT_CREDIT, MAX_DEADLINE_S, Cancel, Credit, End, Item, Open, Request
from sparkd.calls.outgoing import close_items
from sparkd.calls.streams import Gate, Inbox
from sparkd.codec import Buffer
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError

Dispatch = Callable[[Request, Buffer, AsyncIterator[bytes]], Awaitable[bytes | AsyncIterator[bytes]]]
"""Answers a request: parameters and the stream from the caller in, result or result stream out, all still encoded.

It raises CallError and nothing else, and so does the stream it returns.
"""


class IncomingCall:
    """A call that a handler is answering. Cancelled when the caller says so or its connection is gone."""

    def __init__(
        self, endpoint: Endpoint, request: Request, body: bytes, *, dispatch: Dispatch, served_by: str = ""
    ) -> None:
        """Start the handler's task."""
        self._endpoint = endpoint
        self._request = request
        self._dispatch = dispatch
        self._served_by = served_by
        self._scope: anyio.CancelScope | None = None  # made by the task: outside of one it would be a slower kind
        self._deadline_s = min(request.deadline_s, MAX_DEADLINE_S)
        self._inbox: Inbox | None = None
        self._gate = Gate(request.credit)
        self._answered = False
        endpoint.tasks.start_soon(self._run, body, name=request.method)

    def on_frame(self, head: Answer, body: bytes) -> None:
        """Take a message of the caller."""
        match head:
            case Cancel():
                self._stop()
            case Item() if self._inbox is not None:
                self._inbox.put(head.n, body)
            case End() if self._inbox is not None:
                self._inbox.finish()
            case Credit():
                self._gate.add(head.n)
            case _:
                raise RemoteMessageError(f"{type(head).__name__} from a caller out of turn")

    def on_lost(self, endpoint: Endpoint, error: CallError) -> None:  # noqa: ARG002 - an exchange may have two
        """Stop: there is nobody to answer."""
        self._stop()

    def _stop(self) -> None:
        self._answered = True
        self._endpoint.forget(self._request.id, answering=True)
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, body: bytes) -> None:
        if self._answered:  # cancelled before it began
            return
        method = self._request.method
        scope = self._scope = anyio.CancelScope(deadline=anyio.current_time() + self._deadline_s)
        try:
            with scope:
                await self._answer(body, scope)
        finally:  # the service is stopping, or a library let a cancellation escape: the caller must not wait
            if not scope.cancelled_caught:
                self._fail(CallError(CallErrorKind.CANCELLED, f"{method}: the service stopped answering"))
        self._fail(CallError(CallErrorKind.DEADLINE, f"{method}: not done within {self._deadline_s:g} s"))

    async def _answer(self, body: bytes, scope: anyio.CancelScope) -> None:
        try:
            result = await self._dispatch(self._request, body, CallerItems(self))
            if isinstance(result, bytes):
                self._end(result)
            else:
                await self._stream(result, scope)
        except CallError as error:
            self._fail(error)

    async def _stream(self, items: AsyncIterator[bytes], scope: anyio.CancelScope) -> None:
        endpoint, call_id = self._endpoint, self._request.id
        endpoint.send(Open(call_id, self._served_by))
        try:
            while True:
                if not self._gate.open:
                    scope.deadline = anyio.current_time() + MAX_DEADLINE_S  # a reader may take its time
                    await self._gate.wait()
                scope.deadline = anyio.current_time() + self._deadline_s
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                endpoint.send(Item(call_id, self._gate.spend(), answer=True), item)
        finally:
            await close_items(items)
        self._end(b"")

    async def next_item(self) -> bytes:
        """Return the next item of the caller's stream; the first credit is given when the handler begins to read."""
        if self._inbox is None:
            self._inbox = Inbox(DEFAULT_CREDIT, self._grant)
            self._grant(DEFAULT_CREDIT)
        return await self._inbox.receive()

    def _grant(self, n: int) -> None:
        self._endpoint.try_send(Credit(self._request.id, n, answer=True))

    def _end(self, body: bytes) -> None:
        if self._answered:
            return
        end = End(self._request.id, answer=True, served_by=self._served_by)
        self._endpoint.send(end, body)  # what cannot be sent becomes the error that says why
        self._answered = True
        self._endpoint.forget(self._request.id, answering=True)

    def _fail(self, error: CallError) -> None:
        if not self._answered:
            self._answered = True
            self._endpoint.fail(self._request.id, error)


class CallerItems:
    """The stream that the caller sends; iterate it."""

    __slots__ = ("_call",)

    def __init__(self, call: IncomingCall) -> None:
        """Read the items of *call*."""
        self._call = call

    def __aiter__(self) -> CallerItems:
        return self

    async def __anext__(self) -> bytes:
        return await self._call.next_item()
