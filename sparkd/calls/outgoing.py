"""A call this side makes: the request, the streams, the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import msgspec

from sparkd.calls.endpoint import Answer, Endpoint
from sparkd.calls.frames import DEFAULT_CREDIT, MAX_DEADLINE_S, Cancel, Credit, End, Failure, Item, Open, error_of
from sparkd.calls.frames import Request as RequestFrame
from sparkd.calls.streams import Gate, Inbox
from sparkd.codec import Buffer
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.privacy import Privacy


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a caller says about a call it wants made."""

    method: str
    deadline_s: float = 10.0
    privacy: Privacy = Privacy.LOCAL
    trace: bytes | None = None
    caller: str = ""
    node: str = ""
    credit: int = DEFAULT_CREDIT
    json: bool = False
    hops: int = 0


class Result(msgspec.Struct, frozen=True, gc=False):
    """The result of a call, still encoded, and who gave it."""

    body: Buffer
    served_by: str = ""


class OutgoingCall:
    """A call under way. Await `answer` once."""

    def __init__(self, endpoint: Endpoint, call: Call, body: bytes, items: AsyncIterator[bytes] | None = None) -> None:
        """Send the request, and *items* as the peer allows. Raises CallError if the peer cannot be reached."""
        self._endpoint = endpoint
        self.method = call.method
        self._deadline_s = min(call.deadline_s, MAX_DEADLINE_S)
        self._credit = call.credit
        self._answered = anyio.Event()
        self._settled = False
        self._result: Result | None = None
        self._inbox: Inbox | None = None
        self._served_by = ""
        self._error: Exception | None = None
        self._gate = Gate(0)
        self._pump_scope: anyio.CancelScope | None = None
        self._id = endpoint.open(self)
        self._request(call, body)
        if items is not None:
            self._pump_scope = anyio.CancelScope()
            endpoint.tasks.start_soon(self._pump, items, self._pump_scope, name=f"items for {call.method}")

    def _request(self, call: Call, body: bytes) -> None:
        request = RequestFrame(
            id=self._id,
            method=call.method,
            deadline_s=self._deadline_s,
            privacy=call.privacy,
            trace=call.trace,
            caller=call.caller,
            node=call.node,
            credit=call.credit,
            json=call.json,
            hops=call.hops,
        )
        try:
            self._endpoint.send(request, body)
        except BaseException:
            self._endpoint.forget(self._id, answering=False)
            raise

    async def answer(self) -> Result | ItemStream:
        """Return the result, or the stream if that is the answer. Raises CallError.

        Cancelled, or with the deadline past, it cancels the call at the other end too.
        """
        try:
            with anyio.move_on_after(self._deadline_s):
                await self._answered.wait()
        finally:
            if not self._answered.is_set():
                self.cancel()
        if not self._answered.is_set():
            raise self.overdue()
        if self._result is not None:
            return self._result
        if self._inbox is not None:
            return ItemStream(self, self._inbox, self._deadline_s, served_by=self._served_by)
        raise self._error or self.overdue()

    def cancel(self) -> None:
        """Tell the peer that no answer is wanted, unless the call has ended."""
        if not self._settled:
            self._endpoint.try_send(Cancel(self._id))
            self._settle(None)

    def overdue(self) -> CallError:
        """Return the error of a call whose deadline has passed."""
        return CallError(CallErrorKind.DEADLINE, f"{self.method}: no answer within {self._deadline_s:g} s")

    def on_frame(self, head: Answer, body: bytes) -> None:
        """Take a message of the answerer."""
        match head:
            case End():
                self._on_end(head, body)
            case Item() if self._inbox is not None:
                self._inbox.put(head.n, body)
            case Open() if self._inbox is None:
                self._inbox = Inbox(self._credit, self._grant)
                self._served_by = head.served_by
                self._answered.set()
            case Credit():
                self._gate.add(head.n)
            case Failure():
                self._settle(error_of(head))
            case _:
                raise RemoteMessageError(f"{type(head).__name__} from an answerer out of turn")

    def on_lost(self, endpoint: Endpoint, error: CallError) -> None:  # noqa: ARG002 - an exchange may have two
        """Fail: the peer is gone, or broke the protocol."""
        self._settle(error)

    def _on_end(self, head: End, body: bytes) -> None:
        if self._inbox is None:
            self._result = Result(body, head.served_by)
        self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if self._settled:
            return
        self._settled, self._error = True, error
        self._endpoint.forget(self._id, answering=False)
        if self._inbox is not None:
            self._inbox.finish(error)
        if error is not None or self._result is not None:
            self._answered.set()
        if self._pump_scope is not None:
            self._pump_scope.cancel()

    def _grant(self, n: int) -> None:
        self._endpoint.try_send(Credit(self._id, n, answer=False))

    async def _pump(self, items: AsyncIterator[bytes], scope: anyio.CancelScope) -> None:
        with scope:
            try:
                await self._send_items(items)
            except Exception as error:  # noqa: BLE001 - the caller's own iterator may raise anything; it gets it back
                self._endpoint.try_send(Cancel(self._id))
                self._settle(error)
            finally:
                await close_items(items)

    async def _send_items(self, items: AsyncIterator[bytes]) -> None:
        while True:
            await self._gate.wait()  # before the next item is made, so none is made in vain
            try:
                item = await anext(items)
            except StopAsyncIteration:
                break
            self._endpoint.send(Item(self._id, self._gate.spend(), answer=False), item)
        self._endpoint.send(End(self._id, answer=False))


class ItemStream:
    """The stream that answers a call; iterate it. Each wait is bounded by the call's deadline.

    Left early, it cancels the call: by `aclose`, when its reader is cancelled, or when nothing refers to it any more.
    """

    def __init__(self, call: OutgoingCall, inbox: Inbox, deadline_s: float, *, served_by: str) -> None:
        """Read the items of *call* from *inbox*."""
        self.served_by = served_by
        self._call = call
        self._inbox = inbox
        self._deadline_s = deadline_s

    def __aiter__(self) -> ItemStream:
        return self

    async def __anext__(self) -> bytes:
        done = False
        try:
            with anyio.move_on_after(self._deadline_s):
                item = await self._inbox.receive()
                done = True
                return item
        finally:
            if not done:
                self._call.cancel()
        raise self._call.overdue()

    async def aclose(self) -> None:
        """Cancel the call unless it has ended."""
        self._call.cancel()

    def __del__(self) -> None:
        self._call.cancel()


async def close_items(items: AsyncIterator[bytes]) -> None:
    """Close *items* if it can be closed; never longer than 2 s, not even when cancelled."""
    aclose = getattr(items, "aclose", None)
    if aclose is not None:
        with anyio.move_on_after(2, shield=True):
            await aclose()
