"""From a request to a Python method and back: names, parameters, results, errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sparkd.calls.address import parse_address
from sparkd.calls.current import answering
from sparkd.calls.frames import Request
from sparkd.calls.outgoing import close_items
from sparkd.calls.params import did_you_mean, explain
from sparkd.codec import MALFORMED, Buffer, decode_body
from sparkd.errors import CallError, CallErrorKind, DeviceError, RemoteMessageError
from sparkd.interfaces import MethodSpec, interface_spec
from sparkd.service import CallInfo

I = TypeVar("I")  # noqa: E741 - I for interface

OnError = Callable[[str, BaseException], None]
"""Told of every exception of a handler that is not an answer: the method, and the exception with its traceback."""

_to_msgpack = msgspec.msgpack.Encoder().encode
_to_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Bound:
    """A method with all that is needed to call it."""

    name: str
    spec: MethodSpec
    function: Callable[..., Any]
    fields: tuple[str, ...]
    from_msgpack: Callable[[Buffer], Any]
    from_json: Callable[[Buffer], Any]


class Handlers:
    """The methods that answer calls here; `dispatch` calls them."""

    def __init__(self, *, on_error: OnError) -> None:
        """Begin with none; *on_error* is where a handler's failure is logged, once."""
        self._on_error = on_error
        self._bound: dict[str, dict[str, _Bound]] = {}

    @property
    def interfaces(self) -> tuple[str, ...]:
        """The names of the interfaces served."""
        return tuple(self._bound)

    def bind(self, interface: type[I], handler: I) -> None:
        """Answer calls of *interface* with *handler*. Raises TypeError if a method is missing."""
        spec = interface_spec(interface)
        missing = [
            one.attribute for one in spec.methods.values() if not callable(getattr(handler, one.attribute, None))
        ]
        if missing:
            raise TypeError(f"{type(handler).__name__} does not serve {spec.name!r}: it has no {', '.join(missing)}")
        self._bound[spec.name] = {
            name: _Bound(
                name=f"{spec.name}.{name}",
                spec=method,
                function=getattr(handler, method.attribute),
                fields=method.params.__struct_fields__,
                from_msgpack=msgspec.msgpack.Decoder(method.params).decode,
                from_json=msgspec.json.Decoder(method.params).decode,
            )
            for name, method in spec.methods.items()
        }

    def unbind(self, interface: type[Any]) -> None:
        """Stop answering calls of *interface*."""
        self._bound.pop(interface_spec(interface).name, None)

    async def dispatch(
        self, request: Request, body: Buffer, items: AsyncIterator[bytes]
    ) -> bytes | AsyncIterator[bytes]:
        """Call the method that *request* names. Returns the encoded result or stream; raises CallError only."""
        bound = self._find(request.method)
        params = _params(bound, request, body)
        arguments = {name: getattr(params, name) for name in bound.fields}
        if bound.spec.stream_param:
            arguments[bound.spec.stream_param] = _decoded(items, bound, json=request.json)
        info = _info(request)
        try:
            if bound.spec.item_out is not None:
                return self._encoded(bound.function(**arguments), bound, info, json=request.json)
            with answering(info):
                return _encode(await bound.function(**arguments), json=request.json)
        except (Exception, SystemExit) as error:
            raise self._failed(bound, error) from error

    def _find(self, method: str) -> _Bound:
        address = parse_address(method)
        methods = self._bound.get(address.interface)
        if methods is None:
            message = (
                f"no interface {address.interface!r} is served here.{did_you_mean(address.interface, self._bound)}"
            )
            raise CallError(CallErrorKind.UNKNOWN_METHOD, message)
        bound = methods.get(address.method)
        if bound is None:
            message = f"{address.interface!r} has no method {address.method!r}."
            raise CallError(CallErrorKind.UNKNOWN_METHOD, message + did_you_mean(address.method, methods))
        return bound

    def _failed(self, bound: _Bound, error: BaseException) -> CallError:
        if isinstance(error, CallError):
            return error
        if isinstance(error, DeviceError):
            return CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy)
        self._on_error(bound.name, error)
        name = type(error).__name__
        return CallError(CallErrorKind.FAILED, f"{bound.name}: {name}: {error}", error=name)

    async def _encoded(
        self, items: AsyncIterator[Any], bound: _Bound, info: CallInfo, *, json: bool
    ) -> AsyncIterator[bytes]:
        try:
            while True:
                with answering(info):  # for each step: between two the reader's own code runs in this context
                    try:
                        item = await anext(items)
                    except StopAsyncIteration:
                        return
                yield _encode(item, json=json)
        except (Exception, SystemExit) as error:
            raise self._failed(bound, error) from error
        finally:
            await close_items(items)


def _params(bound: _Bound, request: Request, body: Buffer) -> Any:
    try:
        if request.json:
            return bound.from_json(body or b"{}")
        return bound.from_msgpack(body or b"\x80")
    except MALFORMED as error:
        raise explain(bound.name, bound.spec, body, error, json=request.json) from None


def _encode(value: Any, *, json: bool) -> bytes:
    return _to_json(value) if json else _to_msgpack(value)


async def _decoded(items: AsyncIterator[bytes], bound: _Bound, *, json: bool) -> AsyncIterator[Any]:
    number = 0
    async for body in items:
        try:
            yield msgspec.json.decode(body, type=bound.spec.item_in) if json else decode_body(bound.spec.item_in, body)
        except (RemoteMessageError, *MALFORMED) as error:
            field = bound.spec.stream_param
            message = f"{bound.name}: item {number} of {field!r}: {error}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field=field) from None
        number += 1


def _info(request: Request) -> CallInfo:
    return CallInfo(request.method, request.caller, request.node, request.privacy, request.trace, request.deadline_s)
