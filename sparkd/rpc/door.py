"""What a message of a client becomes: a call, as the client's role allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, Protocol

import msgspec

from sparkd.calls.frames import MAX_DEADLINE_S
from sparkd.calls.outgoing import Call, Result
from sparkd.errors import CallError, CallErrorKind
from sparkd.privacy import Privacy
from sparkd.rpc.catalog import Catalog
from sparkd.rpc.connection import Connection, Reply
from sparkd.rpc.jsonrpc import Message
from sparkd.rpc.openrpc import document
from sparkd.rpc.peer import Access, Role
from sparkd.service import Manifest

DEADLINE_S = 10.0
"""Of a call whose `meta` says nothing else. A stream that is known to be one may be silent for a day."""


class Router(Protocol):
    """What the door needs of `sparkd.calls.CallRouter`."""

    node: str

    async def call(
        self, call: Call, body: bytes, items: AsyncIterator[bytes] | None = None, *, kind: Literal["core", "rpc"] = ...
    ) -> Result | AsyncIterator[bytes]:
        """Make a call."""
        ...


class Door:
    """Turns the messages of clients into calls, as their role allows."""

    def __init__(
        self, router: Router, manifests: Callable[[], Sequence[Manifest]], access: Access, version: str
    ) -> None:
        """Make calls through *router*; *manifests* say what there is, the core's among them."""
        self._router = router
        self._catalog = Catalog(manifests)
        self._access = access
        self._version = version
        self._core = f"{router.node}/core"

    async def answer(self, client: Connection, message: Message) -> Reply:
        """Answer *message* of *client*. Raises CallError."""
        if message.method == "rpc.discover":
            described = document(self._catalog.manifests, node=self._router.node, version=self._version)
            return Reply(msgspec.json.encode(described), trusted=True)
        if message.method == "stream.cancel":
            return Reply(b"true" if client.cancel_stream(_stream_of(message)) else b"false", trusted=True)
        answer = await self._router.call(self._call(client, message), message.params, kind="rpc")
        if not isinstance(answer, Result):
            served_by = getattr(answer, "served_by", "")
            return Reply(items=answer, served_by=served_by, trusted=not served_by)
        own = answer.served_by == self._core
        return Reply(answer.body, served_by="" if own else answer.served_by, trusted=own)

    def _call(self, client: Connection, message: Message) -> Call:
        known = self._catalog.find(message.method)
        reads = known is not None and known.reads
        if client.role is not Role.ADMIN and not (client.role is Role.READER and reads):
            text = f"uid {client.peer.uid} may not call {message.method}"
            raise CallError(CallErrorKind.DENIED, text, rule=self._access.rule(client.role))
        streams = known is not None and known.stream in {"out", "both"}
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


class _StreamId(msgspec.Struct, forbid_unknown_fields=True):
    stream: int


def _stream_of(message: Message) -> int:
    try:
        return msgspec.json.decode(message.params or b"{}", type=_StreamId).stream
    except msgspec.MsgspecError as error:
        text = f"stream.cancel: {error}"
        raise CallError(CallErrorKind.INVALID_PARAMS, text, field="stream") from None
