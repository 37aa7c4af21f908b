"""What a message of a client becomes: a call, if the rules let the client make it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Literal, Protocol
from weakref import WeakSet

import msgspec

from sparkd.calls.address import Address, parse_address
from sparkd.calls.frames import MAX_DEADLINE_S
from sparkd.calls.outgoing import Call, Result
from sparkd.codec import MALFORMED, new_trace
from sparkd.config import WITH_TOPICS
from sparkd.errors import CallError, CallErrorKind
from sparkd.privacy import Privacy
from sparkd.rpc.access import Access, Verdict, Wanted
from sparkd.rpc.asking import asked_by
from sparkd.rpc.catalog import Catalog
from sparkd.rpc.connection import Connection, Reply
from sparkd.rpc.jsonrpc import Message
from sparkd.rpc.openrpc import document
from sparkd.rpc.peer import Peer
from sparkd.service import Manifest, MethodManifest

DEADLINE_S = 10.0
"""Of a call whose `meta` says nothing else. A stream that is known to be one may be silent for a day."""
DISCOVER, CANCEL = "rpc.discover", "stream.cancel"
"""Methods of the socket itself."""


class Router(Protocol):
    """What the door needs of `sparkd.calls.CallRouter`."""

    node: str

    def locate(self, address: Address) -> tuple[str, str]:
        """Return the node and the service a call goes to."""
        ...

    async def call(
        self, call: Call, body: bytes, items: AsyncIterator[bytes] | None = None, *, kind: Literal["core", "rpc"] = ...
    ) -> Result | AsyncIterator[bytes]:
        """Make a call."""
        ...


class Audit(Protocol):
    """Who records the calls of clients."""

    def wants(self, method: str) -> bool:
        """Whether calls of *method*, `interface.method`, are recorded at all."""
        ...

    def client_refused(self, peer: Peer, call: Call, params: bytes, rule: str) -> None:
        """Record that a call was refused."""
        ...

    async def client_called(
        self, peer: Peer, call: Call, params: bytes, *, rule: str, outcome: str, began_s: float
    ) -> None:
        """Record what became of a call that changes something, begun at *began_s* on the monotonic clock."""
        ...


class Door:
    """Turns the messages of clients into calls, as the rules in force allow."""

    def __init__(
        self,
        router: Router,
        manifests: Callable[[], Sequence[Manifest]],
        access: Callable[[], Access],
        version: str,
        *,
        audit: Audit | None = None,
    ) -> None:
        """Make calls through *router*; *manifests* say what there is, the core's among them.

        *access* is asked for each call: what changes there holds for clients that are connected already. *audit* is
        told of calls that change something, before their answers are sent, and of those that are refused.
        """
        self._audit = audit
        self._router = router
        self._catalog = Catalog(manifests)
        self._access = access
        self._version = version
        self._core = f"{router.node}/core"
        self._streaming: WeakSet[Connection] = WeakSet()

    async def answer(self, client: Connection, message: Message) -> Reply:
        """Answer *message* of *client*. Raises CallError."""
        wanted, known, params = self._wanted(message.method, message.params)
        verdict = self._access().judge(client.peer, wanted)
        call, message = _call(client, message, known), replace(message, params=params)
        if not verdict.allowed:
            if self._audit is not None:
                self._audit.client_refused(client.peer, call, params, verdict.rule)
            raise _denied(client.peer, message.method, verdict)
        if message.method == DISCOVER:
            described = document(self._catalog.manifests, node=self._router.node, version=self._version)
            return Reply(msgspec.json.encode(described), trusted=True)
        if message.method == CANCEL:
            return Reply(b"true" if client.cancel_stream(_stream_of(message)) else b"false", trusted=True)
        if wanted.reads or self._audit is None or not self._audit.wants(wanted.name):
            return await self._make(client, message, call)
        return await self._recorded(self._audit, client, message, call, verdict.rule)

    async def _recorded(self, audit: Audit, client: Connection, message: Message, call: Call, rule: str) -> Reply:
        """Make a call that changes something; it is recorded before this returns."""
        call = msgspec.structs.replace(call, trace=call.trace or new_trace())
        began_s, outcome = time.monotonic(), "cancelled"
        try:
            reply = await self._make(client, message, call)
            outcome = "ok" if reply.items is None else "stream"
        except CallError as error:
            outcome = error.kind.value
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            await audit.client_called(client.peer, call, message.params, rule=rule, outcome=outcome, began_s=began_s)
        return reply

    async def _make(self, client: Connection, message: Message, call: Call) -> Reply:
        items = client.uploads.items(message)
        if items is not None:
            self._streaming.add(client)
        with asked_by(client.peer):
            # Between the verdict and the router's own look nothing waits, so both mean the same service.
            answer = await self._router.call(call, message.params, items, kind="rpc")
        if not isinstance(answer, Result):
            self._streaming.add(client)
            served_by = getattr(answer, "served_by", "")
            return Reply(items=answer, served_by=served_by, trusted=not served_by)
        own = answer.served_by == self._core
        return Reply(bytes(answer.body), served_by="" if own else answer.served_by, trusted=own)

    def reads(self, method: str, service: str = "") -> bool:
        """Whether *method*, `interface.method` of *service*, is known to change nothing."""
        known = self._catalog.find(method, service)
        return known is not None and known.reads

    def verdict(self, peer: Peer, method: str, topics: Sequence[str] = ()) -> Verdict:
        """Return whether *peer* may call *method*, and why. Raises CallError if that is malformed."""
        wanted, _, _ = self._wanted(method, b"")
        if wanted.name in WITH_TOPICS:
            wanted = Wanted(wanted.node, wanted.service, wanted.interface, wanted.method, wanted.reads, tuple(topics))
        return self._access().judge(peer, wanted)

    def methods(self) -> list[str]:
        """Return every method of this node that can be called."""
        return [*self._catalog.names(), DISCOVER, CANCEL]

    def judge_again(self) -> None:
        """End the streams that the rules in force now would not let their clients open."""
        for client in list(self._streaming):
            client.judge_streams(self._refusal_now)

    def _refusal_now(self, client: Connection, message: Message) -> CallError | None:
        wanted, _, _ = self._wanted(message.method, message.params)
        verdict = self._access().judge(client.peer, wanted)
        return None if verdict.allowed else _denied(client.peer, message.method, verdict)

    def _wanted(self, method: str, params: bytes) -> tuple[Wanted, MethodManifest | None, bytes]:
        """Return what a call would be, what is known of its method, and its parameters as they were understood."""
        address = parse_address(method)
        name = address.name
        if method in {DISCOVER, CANCEL}:
            return Wanted(self._router.node, "core", address.interface, address.method, reads=True), None, params
        node, service = self._router.locate(address)
        here = node == self._router.node
        known = self._catalog.find(name, service if here else "") if service or not here else None
        topics: tuple[str, ...] = ()
        if name in WITH_TOPICS and params:
            topics, params = _topics(name, params)
        reads = known is not None and known.reads
        return Wanted(node, service, address.interface, address.method, reads, topics), known, params


def _denied(peer: Peer, method: str, verdict: Verdict) -> CallError:
    text = f"uid {peer.uid} may not call {method}: {verdict.rule}"
    return CallError(CallErrorKind.DENIED, text, rule=verdict.rule, remedy=verdict.remedy)


def _call(client: Connection, message: Message, known: MethodManifest | None) -> Call:
    streams = message.streams or (known is not None and known.stream in {"out", "both"})
    return Call(
        method=message.method,
        deadline_s=message.deadline_s or (MAX_DEADLINE_S if streams else DEADLINE_S),
        privacy=_privacy(message),
        trace=message.trace,
        caller=client.peer.label,
        json=True,
    )


def _privacy(message: Message) -> Privacy:
    """Return the class of the call: what the client says, else `local`, unless there is nothing private in it.

    Nothing is if there are no parameters, or if the call goes to a core: those name services, topics and streams.
    """
    if message.privacy is not None:
        return message.privacy
    harmless = message.params in {b"", b"{}"} or "/core:" in message.method
    return Privacy.SHARED if harmless else Privacy.LOCAL


class _Topics(msgspec.Struct, forbid_unknown_fields=True):
    topics: list[str]


class _Topic(msgspec.Struct, forbid_unknown_fields=True):
    topic: str = ""


class _StreamId(msgspec.Struct, forbid_unknown_fields=True):
    stream: int


def _topics(name: str, params: bytes) -> tuple[tuple[str, ...], bytes]:
    """Return the topics that a call asks for, and its parameters written anew: what was judged is what is sent.

    What cannot be read asks for everything: whoever answers the call will say what is wrong with it.
    """
    try:
        if name == "bus.last":
            one = msgspec.json.decode(params, type=_Topic)
            return (one.topic,), msgspec.json.encode(one)
        several = msgspec.json.decode(params, type=_Topics)
        return tuple(several.topics), msgspec.json.encode(several)
    except MALFORMED:
        return (), params


def _stream_of(message: Message) -> int:
    try:
        return msgspec.json.decode(message.params or b"{}", type=_StreamId).stream
    except msgspec.MsgspecError as error:
        text = f"stream.cancel: {error}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="stream") from None
