"""One live connection with a peer, both greetings said: events and calls both ways, until it ends.

Theory of operation: whoever owns the socket (dialer or listener) hands each message to `on_message`; what goes out
passes two bounded lanes, so a peer that does not read loses live events, and calls to it fail. Events of this node come
from a bus subscription that lives as long as the session. Events and calls of the peer are judged and handed on at
once. Nothing a peer sends raises out of here.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import anyio

from sparkd.calls import frames as calls
from sparkd.codec import Message
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, RemoteMessageError
from sparkd.link import frames
from sparkd.link.complaints import Complaints
from sparkd.link.ledger import Ledger
from sparkd.link.peer import Peer
from sparkd.link.queues import Lanes
from sparkd.link.rules import Refusal
from sparkd.reference import is_reference
from sparkd.service import Received

MAX_WAITING = 1000
MAX_WAITING_BYTES = 4 << 20
"""What waits for one slow peer in each lane: seconds of busy live events. Streams of calls have credit of their own."""
MISSED_PINGS = 3


class LinkBus(Protocol):
    """What the link needs of the local bus."""

    def subscribe_messages(self, *topics: str) -> AbstractAsyncContextManager[AsyncIterator[Received[Message]]]:
        """Subscribe to every event at or beneath *topics*, bodies undecoded; a slow reader loses the oldest."""
        ...

    def publish_message(self, message: Message) -> None:
        """Publish an event of another node on this one, its header kept. Raises LocalMessageError if it cannot be."""
        ...


class Transport(Protocol):
    """The way to one peer."""

    def send(self, frames: Sequence[bytes]) -> bool:
        """Give a message to the socket; return False if it has no room. Raises BrokenPipeError if the peer is gone."""
        ...

    def close(self, reason: str, *, farewell: bool) -> None:
        """End the connection for *reason*; if a *farewell* was sent, let it leave first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHooks:
    """Whom a session tells what it got."""

    call_frames: Callable[[str, list[bytes]], None]
    """A message of a call: the peer's name, head and body."""
    retained: Callable[[Sequence[str]], Sequence[Message]]
    """Returns the last values of state topics at or beneath those given."""
    call_refused: Callable[[str, calls.Request, bytes, str], None]
    """A call of the peer was refused: its name, the request and its body, and the rule."""
    ended: Callable[[Session, str], None]
    """The session is over, and why. Called once."""


class Session:
    """One live connection; see the module's docstring."""

    def __init__(
        self,
        peer: Peer,
        transport: Transport,
        *,
        bus: LinkBus,
        hooks: SessionHooks,
        complaints: Complaints,
        ledger: Ledger,
        max_message_bytes: int,
        heartbeat_s: float,
    ) -> None:
        """Speak with *peer* over *transport*; send nothing larger than *max_message_bytes*."""
        self.peer = peer
        self._transport = transport
        self._bus = bus
        self._hooks = hooks
        self._complaints = complaints
        self._ledger = ledger
        self._max_message_bytes = max_message_bytes
        self._heartbeat_s = heartbeat_s
        self._lanes = Lanes(self._give, max_items=MAX_WAITING, max_bytes=MAX_WAITING_BYTES)
        self._scope = anyio.CancelScope()
        self._over = False
        self._ping: tuple[bytes, float] | None = None
        self._unanswered = 0

    async def run(self) -> None:
        """Carry events and pings until the session ends."""
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._forward, self.peer.rules.topics())
                await self._keep_pinging()

    def end(self, reason: str, *, farewell: str = "") -> None:
        """End the session for *reason*; tell the peer *farewell* if there is one and it reads."""
        if self._over:
            return
        if farewell:
            self._try_send(frames.bye(farewell))
        self._over = True
        self._ledger.closed(id(self))
        self._scope.cancel()
        self._transport.close(reason, farewell=bool(farewell))
        self._hooks.ended(self, reason)

    def send(self, message: list[bytes], /) -> None:
        """Send a message of a call, `[head, body]`.

        Raises CallError: `UNAVAILABLE` if the peer is gone or does not read, `DENIED` if the call's privacy class
        forbids, `FAILED` if the message is too large for the link.
        """
        head, _ = calls.decode(message)
        refusal = self.peer.rules.calling(head) if isinstance(head, calls.Request) else None
        if refusal is not None:
            self.peer.counts.add(refusal.kind)
            raise CallError(
                CallErrorKind.DENIED, f"{head_name(head)} may not go to {self.peer.name}", rule=refusal.rule
            )
        outgoing = frames.call(message)
        try:
            self._check_size(outgoing)
        except LocalMessageError as error:
            self.peer.counts.add("send: call too large")
            raise CallError(CallErrorKind.FAILED, str(error), error="too-large") from None
        if self._over or not self._lanes.call(outgoing):
            self.peer.counts.add("send: call, peer does not read")
            reason = "gone" if self._over else "peer does not read"
            raise CallError(CallErrorKind.UNAVAILABLE, f"{self.peer.name}: {reason}")
        self.peer.sent += 1
        self._ledger.call(id(self), head, outgoing)

    def flush(self) -> None:
        """Send what waited for room."""
        if not self._over:
            self._lanes.flush()

    def on_message(self, message: Sequence[bytes]) -> None:
        """Take a message from the peer. Never raises for what a peer may send."""
        if self._over:
            return
        try:
            self._on_said(frames.decode(message))
        except RemoteMessageError as error:
            self.peer.counts.add("receive: malformed")
            self._complaints.say("link: malformed message", culprit=self.peer.name, peer=self.peer.name, why=str(error))

    def _on_said(self, said: frames.Said) -> None:
        match said:
            case frames.Event(message):
                self._on_event(message)
            case frames.Call(message):
                self._on_call(message)
            case frames.Ping(token):
                self._try_send(frames.pong(token))
            case frames.Pong(token):
                self._on_pong(token)
            case frames.Bye(reason):
                self.end(f"{self.peer.name} closed: {reason}")
            case _:
                raise RemoteMessageError("a greeting in the middle of a session")

    def _on_event(self, message: Message) -> None:
        refusal = self.peer.rules.receiving(message)
        if refusal is not None:
            self._refused("link: event refused", refusal)
            return
        self.peer.received += 1
        try:
            self._bus.publish_message(message)
        except LocalMessageError as error:  # the local bus has limits of its own
            self._refused("link: event refused", Refusal("receive: not for this bus", str(error)))

    def _on_call(self, message: list[bytes]) -> None:
        head, body = calls.decode(message)
        refusal = self.peer.rules.called(head) if isinstance(head, calls.Request) else None
        if refusal is not None and isinstance(head, calls.Request):
            self._hooks.call_refused(self.peer.name, head, body, refusal.rule)
        if refusal is None:
            self.peer.received += 1
            self._hooks.call_frames(self.peer.name, message)
            return
        self._refused("link: call refused", refusal)
        denied = CallError(CallErrorKind.DENIED, f"{head_name(head)} is refused", rule=refusal.rule)
        self._try_send(frames.call(calls.encode(calls.failure(head.id, denied))))

    def _refused(self, event: str, refusal: Refusal) -> None:
        self.peer.counts.add(refusal.kind)
        self._complaints.say(event, culprit=self.peer.name, peer=self.peer.name, rule=refusal.rule)

    async def _forward(self, topics: Sequence[str]) -> None:
        if not topics:
            return
        try:
            async with self._bus.subscribe_messages(*topics) as messages:
                self._complaints.log.debug("link: events pass", peer=self.peer.name, topics=topics)
                for message in self._hooks.retained(topics):
                    self._offer(message)
                async for received in messages:
                    self._offer(received.event)
        except OSError as error:
            self.end(f"the local bus cannot be read: {error}", farewell="trouble with its bus")

    def _offer(self, message: Message) -> None:
        """Send an event if it is this node's own, or count why not."""
        if not self.peer.rules.is_ours(message):
            return
        refusal = self.peer.rules.sending(message)
        if refusal is not None:
            self.peer.counts.add(refusal.kind)
            return
        if is_reference(message.body):
            self._not_sent(message.topic, "it is longer than an event may be, and goes by shared memory")
            return
        outgoing = frames.event(message)
        try:
            self._check_size(outgoing)
        except LocalMessageError as error:
            self._not_sent(message.topic, str(error))
            return
        if self._over or not self._lanes.event(outgoing):
            self.peer.counts.add("send: event dropped, peer does not read")
            return
        self.peer.sent += 1
        self._ledger.event(message.header.service, outgoing)

    def _not_sent(self, topic: str, why: str) -> None:
        self.peer.counts.add(f"send {topic}: too large")
        self._complaints.say("link: event not sent", culprit=self.peer.name, peer=self.peer.name, topic=topic, why=why)

    async def _keep_pinging(self) -> None:
        while True:
            if self._ping is not None:
                self._unanswered += 1
                if self._unanswered == MISSED_PINGS:
                    self.peer.reason = "connected, but does not answer: its core is busy or stuck"
                    name, why = self.peer.name, self.peer.reason
                    self._complaints.say("link: no answer", culprit=name, peer=name, why=why)
            self._ping = (os.urandom(8), time.perf_counter())
            self._try_send(frames.ping(self._ping[0]))
            await anyio.sleep(self._heartbeat_s)

    def _on_pong(self, token: bytes) -> None:
        if self._ping is None or token != self._ping[0]:
            return  # late: a newer ping is under way
        self.peer.rtt_ms = (time.perf_counter() - self._ping[1]) * 1000
        self._ping, self._unanswered, self.peer.reason = None, 0, ""

    def _check_size(self, message: Sequence[bytes]) -> None:
        size = sum(map(len, message))
        if size > self._max_message_bytes:
            raise LocalMessageError(
                f"message of {size} bytes is too large for the link to {self.peer.name}, "
                f"which takes {self._max_message_bytes}"
            )

    def _try_send(self, message: Sequence[bytes]) -> None:
        if not self._over:
            self._lanes.call(message)

    def _give(self, message: Sequence[bytes]) -> bool:
        try:
            taken = self._transport.send(message)
        except BrokenPipeError:
            return True  # there is nobody to keep it for; the end of the session is on its way
        return taken


def head_name(head: calls.Head) -> str:
    """Return what an operator would call a message of a call."""
    return head.method if isinstance(head, calls.Request) else type(head).__name__.lower()
