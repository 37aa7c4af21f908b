"""One end of a connection over which both sides make and answer calls. No socket here.

Theory of operation: whoever owns the socket gives an `Endpoint` a `Channel` to send on and calls `feed` with what
arrives. The endpoint keeps two tables of exchanges, those it opened and those the peer opened, and hands every message
to the one it belongs to. What an exchange does is its own affair: `OutgoingCall` waits for an answer, `IncomingCall`
runs a handler, `Relay` passes messages on to another endpoint. A malformed message is counted and costs at the most
the call it names. When the connection is gone, `close` ends every exchange, at once and on both sides of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from anyio.abc import TaskGroup

from sparkd.calls.frames import Cancel, Credit, End, Failure, Head, Item, Open, Request, decode, encode, failure
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, RemoteMessageError
from sparkd.reference import is_reference

MAX_IN_FLIGHT = 256
"""Calls under way per peer and direction. A service with 40 threads' worth of callers stays far below it."""

MAX_FRAME_BYTES = (4 << 20) - (64 << 10)
"""Below the 4 MiB at which `sparkd.bus.sockets` drops the whole connection. What is larger goes as a reference."""

Answer = Open | Item | Credit | End | Failure | Cancel


class Channel(Protocol):
    """Where frames go. Sending never waits."""

    def send(self, frames: list[bytes], /) -> None:
        """Queue *frames* for the peer. Raises CallError (`UNAVAILABLE`) if it does not read, or is gone."""
        ...


class Exchange(Protocol):
    """One call that is under way at an endpoint."""

    def on_frame(self, head: Answer, body: bytes, /) -> None:
        """Take a message of this call. Raises RemoteMessageError if the peer may not say it now."""
        ...

    def on_lost(self, endpoint: Endpoint, error: CallError, /) -> None:
        """Learn that *endpoint* can no longer carry the call: the connection, or the peer's manners, are gone."""
        ...


Accept = Callable[["Endpoint", Request, bytes], Exchange]
"""Decides what becomes of a peer's request; it registers the exchange by returning it, or raises CallError."""


@dataclass(slots=True)
class Counts:
    """What an endpoint has seen."""

    opened: int = 0
    answered: int = 0
    malformed: int = 0
    late: int = 0
    """Messages for a call that has ended: harmless, they crossed its end on the way."""
    unsent: int = 0
    """Messages the channel refused."""
    refused: int = 0
    """Requests beyond the bound of calls in flight."""


class Endpoint:
    """One end of a connection; see the module's docstring."""

    def __init__(
        self,
        channel: Channel,
        *,
        accept: Accept,
        tasks: TaskGroup,
        name: str = "",
        max_in_flight: int = MAX_IN_FLIGHT,
        outward: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """Send on *channel*, run handlers in *tasks*; *name* is the peer's, for error messages.

        With *outward* the peer is another node, which cannot follow a reference to memory of this one: *outward* puts
        the bytes in its place, or raises CallError.
        """
        self.name = name
        self.tasks = tasks
        self.counts = Counts()
        self._channel = channel
        self._accept = accept
        self._max_in_flight = max_in_flight
        self._outward = outward
        self._opened: dict[int, Exchange] = {}
        self._answering: dict[int, Exchange] = {}
        self._last_id = 0
        self._closed: CallError | None = None

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closed is not None

    @property
    def in_flight(self) -> tuple[int, int]:
        """How many calls are under way: those this side opened, those it answers."""
        return len(self._opened), len(self._answering)

    def feed(self, frames: Sequence[bytes]) -> None:
        """Take a message from the peer. Never raises for what a peer may send."""
        if self._closed is not None:
            return
        try:
            head, body = decode(frames)
            if self._outward is not None and is_reference(body):
                raise RemoteMessageError("a reference to memory of another node")  # noqa: TRY301 - counted as all are
            if type(head) is Request:
                self._on_request(head, body)
            else:
                self._on_answer(head, body)  # type: ignore[arg-type] # every other head
        except RemoteMessageError:
            self.counts.malformed += 1

    def open(self, exchange: Exchange) -> int:
        """Return a new id under which *exchange* gets the peer's answers. Raises CallError if there can be none."""
        if self._closed is not None:
            raise self._closed
        if len(self._opened) >= self._max_in_flight:
            message = f"{self._max_in_flight} calls to {self.name or 'this peer'} are under way"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="try again when some have ended", busy=True)
        self._last_id += 1
        self._opened[self._last_id] = exchange
        self.counts.opened += 1
        return self._last_id

    def send(self, head: Head, body: bytes = b"") -> None:
        """Send a message. Raises CallError: `UNAVAILABLE` if the channel refuses it, `FAILED` if it is too large."""
        try:
            frames = encode(head, body if self._outward is None else self._outward(body))
            _check_size(frames)
            if self._closed is not None:
                raise self._closed
            self._channel.send(frames)
        except CallError:
            self.counts.unsent += 1
            raise

    def try_send(self, head: Head, body: bytes = b"") -> bool:
        """Send a message whose loss changes nothing here; return whether the channel took it."""
        try:
            self.send(head, body)
        except CallError:
            return False
        return True

    def fail(self, call_id: int, error: CallError) -> None:
        """Answer the peer's call *call_id* with *error*, if the peer still reads."""
        self._answering.pop(call_id, None)
        try:
            self.send(failure(call_id, error))
        except (LocalMessageError, CallError):  # its data cannot be said, or not at this length: the reason still can
            self.try_send(Failure(call_id, error.kind.value, error.message[:1000]))

    def forget(self, call_id: int, *, answering: bool) -> None:
        """End the exchange of call *call_id*: one the peer opened if *answering*, else one of this side's."""
        (self._answering if answering else self._opened).pop(call_id, None)

    def close(self, reason: str = "gone") -> None:
        """End every call under way: this side's fail with `UNAVAILABLE` and *reason*, the peer's are cancelled."""
        if self._closed is not None:
            return
        error = self._closed = CallError(CallErrorKind.UNAVAILABLE, f"{self.name or 'peer'}: {reason}")
        exchanges = [*self._opened.values(), *self._answering.values()]
        self._opened.clear()
        self._answering.clear()
        for exchange in exchanges:
            exchange.on_lost(self, error)

    def _on_request(self, request: Request, body: bytes) -> None:
        if request.id in self._answering:
            raise RemoteMessageError(f"request {request.id} is under way already")
        if len(self._answering) >= self._max_in_flight:
            self.counts.refused += 1
            message = f"{self._max_in_flight} calls of yours are under way"
            error = CallError(CallErrorKind.UNAVAILABLE, message, remedy="try again when some have ended")
            self.fail(request.id, error)
            return
        self.counts.answered += 1
        try:
            self._answering[request.id] = self._accept(self, request, body)
        except CallError as error:
            self.fail(request.id, error)

    def _on_answer(self, head: Answer, body: bytes) -> None:
        exchange = (self._opened if head.answer else self._answering).get(head.id)
        if exchange is None:
            self.counts.late += 1
            return
        try:
            exchange.on_frame(head, body)
        except RemoteMessageError as error:
            self._break_off(exchange, head, error)
            raise

    def _break_off(self, exchange: Exchange, head: Answer, error: RemoteMessageError) -> None:
        """End one call whose peer does not keep to the protocol; the connection goes on."""
        reason = CallError(CallErrorKind.FAILED, f"the peer broke the protocol: {error}", error="protocol")
        if head.answer:
            self.forget(head.id, answering=False)
            self.try_send(Cancel(head.id))
        else:
            self.fail(head.id, reason)
        exchange.on_lost(self, reason)


def _check_size(frames: list[bytes]) -> None:
    size = max(len(frames[0]), len(frames[1]))
    if size > MAX_FRAME_BYTES:
        message = f"a message of {size} bytes; {MAX_FRAME_BYTES} at the most, pass a reference to what is larger"
        raise CallError(CallErrorKind.FAILED, message, error="too-large")
