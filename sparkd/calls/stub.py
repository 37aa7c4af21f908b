"""The stand-in for an interface whose methods are calls: what `ctx.call(Vision)` returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sparkd.calls.address import parse_address
from sparkd.calls.current import calling
from sparkd.calls.endpoint import Endpoint
from sparkd.calls.outgoing import Call, OutgoingCall, Result, close_items
from sparkd.codec import Buffer, decode_body, encode_body, unpack
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.interfaces import MethodSpec, interface_spec
from sparkd.privacy import Privacy, strictest

I = TypeVar("I")  # noqa: E741 - I for interface

Answer = Result | AsyncIterator[bytes]
Requester = Callable[[Call, bytes, AsyncIterator[bytes] | None], Awaitable[Answer]]
"""Makes one call: over an endpoint (`requester`), or straight through the core's router."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a caller says of all calls of one stand-in."""

    node: str = ""
    service: str = ""
    deadline_s: float = 10.0
    privacy: Privacy = Privacy.LOCAL
    caller: str = ""

    def call(self, method: str) -> Call:
        """Return the call of *method*.

        Made while answering another call it carries that one's trace, and data of that one's privacy class: what is
        derived takes the strictest class of its inputs.
        """
        current = calling()
        return Call(
            method=method,
            deadline_s=self.deadline_s,
            privacy=self.privacy if current is None else strictest(self.privacy, current.privacy),
            trace=None if current is None else current.trace,
            caller=self.caller,
        )


def requester(endpoint: Endpoint) -> Requester:
    """Return what makes calls over *endpoint*."""

    async def request(call: Call, body: bytes, items: AsyncIterator[bytes] | None) -> Answer:
        return await OutgoingCall(endpoint, call, body, items).answer()

    return request


def stub(interface: type[I], request: Requester, terms: Terms) -> I:
    """Return a stand-in for *interface*: its methods make calls by *request* and raise CallError."""
    return cast(I, _Stub(interface, request, terms))


async def request_plain(request: Requester, method: str, params: Mapping[str, Any] | None, terms: Terms) -> Any:
    """Call *method* with plain values; return the plain result, or an async iterator of plain items."""
    parse_address(method)
    answer = await request(terms.call(method), encode_body(dict(params or {})), None)
    if isinstance(answer, Result):
        return _decode(method, answer.body, unpack)
    return _Items(answer, lambda body: _decode(method, body, unpack))


class _Stub:
    """Methods appear when they are first used."""

    def __init__(self, interface: type[Any], request: Requester, terms: Terms) -> None:
        self._spec = interface_spec(interface)
        self._request = request
        self._terms = terms

    def __getattr__(self, name: str) -> Callable[..., Any]:
        spec = self._spec.methods.get(name.removesuffix("_"))
        if spec is None:
            raise AttributeError(f"interface {self._spec.name!r} has no method {name!r}")
        terms = self._terms
        service = f"{terms.service}:" if terms.service else ""
        address = (f"{terms.node}/" if terms.node else "") + f"{service}{self._spec.name}.{spec.name}"
        method = _Method(address, spec, self._request, terms)
        bound = method.stream if spec.item_out is not None else method.unary
        setattr(self, name, bound)
        return bound


class _Method:
    """One method of a stand-in."""

    def __init__(self, address: str, spec: MethodSpec, request: Requester, terms: Terms) -> None:
        self._address = address
        self._spec = spec
        self._request = request
        self._terms = terms

    async def unary(self, **arguments: Any) -> Any:
        answer = await self._open(arguments)
        if not isinstance(answer, Result):
            await close_items(answer)
            raise CallError(CallErrorKind.FAILED, f"{self._address}: a stream came where a result was expected")
        return self._value(self._spec.result, answer.body)

    async def stream(self, **arguments: Any) -> AsyncIterator[Any]:
        answer = await self._open(arguments)
        if isinstance(answer, Result):
            raise CallError(CallErrorKind.FAILED, f"{self._address}: a result came where a stream was expected")
        try:
            async for body in answer:
                yield self._value(self._spec.item_out, body)
        finally:
            await close_items(answer)

    async def _open(self, arguments: dict[str, Any]) -> Answer:
        spec, items = self._spec, None
        if spec.stream_param:
            items = _encoded(arguments.pop(spec.stream_param))
        spec.params(**arguments)  # raises TypeError for a missing or unknown one, as any Python call would
        return await self._request(self._terms.call(self._address), encode_body(arguments), items)

    def _value(self, kind: Any, body: Buffer) -> Any:
        return _decode(self._address, body, lambda given: decode_body(kind, given))


class _Items:
    """A stream with its items decoded. Dropped before its end, it cancels the call."""

    def __init__(self, items: AsyncIterator[bytes], decode: Callable[[bytes], Any]) -> None:
        self._items = items
        self._decode = decode

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Any:
        return self._decode(await anext(self._items))

    async def aclose(self) -> None:
        await close_items(self._items)


async def _encoded(items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    try:
        async for item in items:
            yield encode_body(item)
    finally:
        await close_items(items)


def _decode(method: str, body: Buffer, decode: Callable[[Buffer], Any]) -> Any:
    try:
        return decode(body)
    except RemoteMessageError as error:
        raise CallError(CallErrorKind.FAILED, f"{method}: the answer is {error}", error="protocol") from None
