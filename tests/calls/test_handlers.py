from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import msgspec
import pytest

from sparkd import CallError, CallErrorKind, DeviceError, Privacy, interface
from sparkd.calls import Call, Endpoint, Handlers, IncomingCall, Result, Terms, current_call, request_plain, stub
from sparkd.calls.current import answering
from sparkd.calls.frames import Request
from sparkd.calls.stub import requester
from sparkd.service import CallInfo

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.calls.call_pair",)


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@interface("points")
class Points(Protocol):
    async def move(self, *, point: Point, by: int = 1) -> Point: ...

    async def who(self) -> tuple[str, str, int]: ...

    async def fail(self, *, how: str) -> None: ...

    def line(self, *, upto: int) -> AsyncIterator[Point]: ...

    async def total(self, *, points: AsyncIterator[Point]) -> int: ...

    def mirror(self, *, points: AsyncIterator[Point]) -> AsyncIterator[Point]: ...


class PointHandler:
    async def move(self, *, point: Point, by: int = 1) -> Point:
        return Point(point.x + by, point.y + by)

    async def who(self) -> tuple[str, str, int]:
        info = current_call()
        return info.method, info.caller, info.privacy

    async def fail(self, *, how: str) -> None:
        raise {
            "call": CallError(CallErrorKind.DENIED, "not now", rule="mine"),
            "device": DeviceError("no lamp", remedy="plug it in"),
            "exit": SystemExit(3),
            "bug": ZeroDivisionError("by zero"),
        }[how]

    async def line(self, *, upto: int) -> AsyncIterator[Point]:
        for x in range(upto):
            yield Point(x, current_call().privacy)
        if upto == 13:
            raise ZeroDivisionError("unlucky")

    async def total(self, *, points: AsyncIterator[Point]) -> int:
        return sum([point.x async for point in points])

    async def mirror(self, *, points: AsyncIterator[Point]) -> AsyncIterator[Point]:
        async for point in points:
            yield Point(point.y, point.x)


@pytest.fixture
def errors() -> list[str]:
    return []


@pytest.fixture
def handlers(errors: list[str]) -> Handlers:
    served = Handlers(on_error=lambda method, error: errors.append(f"{method} {error!r}"))
    served.bind(Points, PointHandler())
    return served


@pytest.fixture
def pair(make_pair: Any, handlers: Handlers) -> Any:
    def accept(endpoint: Endpoint, request: Request, body: bytes) -> IncomingCall:
        return IncomingCall(endpoint, request, body, dispatch=handlers.dispatch)

    return make_pair(accept)


async def some_points(count: int) -> AsyncIterator[Point]:
    for x in range(count):
        yield Point(x, -x)


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def dispatch(handlers: Handlers, method: str, body: Any, *, json: bool = False) -> Any:
    encoded = body if isinstance(body, bytes) else (msgspec.json if json else msgspec.msgpack).encode(body)
    return await handlers.dispatch(Request(1, method, 1.0, json=json), encoded, nothing())


async def test_typed_calls_in_all_four_shapes(pair: Any) -> None:
    async with pair as ends:
        points = stub(Points, requester(ends.left), Terms())

        assert await points.move(point=Point(1, 2)) == Point(2, 3)
        assert await points.move(point=Point(1, 2), by=5) == Point(6, 7)
        assert [point async for point in points.line(upto=3)] == [Point(0, 1), Point(1, 1), Point(2, 1)]
        assert await points.total(points=some_points(100)) == 4950
        assert [p async for p in points.mirror(points=some_points(50))] == [Point(-x, x) for x in range(50)]


async def test_plain_calls(pair: Any) -> None:
    async with pair as ends:
        request = requester(ends.left)

        assert await request_plain(request, "points.move", {"point": {"x": 1}}, Terms()) == {"x": 2, "y": 1}
        stream = await request_plain(request, "points.line", {"upto": 2}, Terms())
        assert [item async for item in stream] == [{"x": 0, "y": 1}, {"x": 1, "y": 1}]


async def test_the_handler_knows_who_calls(pair: Any) -> None:
    async with pair as ends:
        points = stub(Points, requester(ends.left), Terms(caller="gateway", privacy=Privacy.SHARED))

        assert await points.who() == ("points.who", "gateway", Privacy.SHARED)
    with pytest.raises(LookupError):
        current_call()


async def test_a_call_made_while_answering_keeps_trace_and_the_strictest_class() -> None:
    info = CallInfo("a.b", "x", "here", Privacy.NODE, b"t" * 16, 5.0)
    with answering(info):
        call = Terms(privacy=Privacy.SHARED).call("c.d")

    assert (call.privacy, call.trace) == (Privacy.NODE, b"t" * 16)
    assert Terms(privacy=Privacy.SHARED).call("c.d") == Call(method="c.d", privacy=Privacy.SHARED)


@pytest.mark.parametrize("json", [False, True], ids=["msgpack", "json"])
@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"pont": {"x": 1}}, "pont", "Did you mean 'point'?"),
        ({"point": {"x": 1}, "zzzzzz": 1}, "zzzzzz", "There are: by, point"),
        ({}, "point", "missing"),
        ({"point": {"x": "one"}}, "point", "Expected `int`, got `str` - at `$.x`"),
        ({"point": {}}, "point", "missing required field `x`"),
        ({"point": {"x": 1}, "by": 1.5}, "by", "Expected `int`, got `float`"),
        ([1, 2], "", "by name"),
        (5, "", "by name"),
        (b"\xc1", "", "cannot be read"),
        (b"\x91" * 50_000, "", "cannot be read"),
        (b'{"point":' * 50_000, "", "cannot be read"),
    ],
)
async def test_wrong_params_name_the_field(handlers: Handlers, body: Any, field: str, says: str, *, json: bool) -> None:
    with pytest.raises(CallError) as caught:
        await dispatch(handlers, "points.move", body, json=json)

    assert caught.value.kind is CallErrorKind.INVALID_PARAMS
    assert caught.value.data["field"] == field
    if field:
        assert says in caught.value.message


@pytest.mark.parametrize(
    ("how", "kind", "data", "logged"),
    [
        ("call", CallErrorKind.DENIED, {"rule": "mine"}, []),
        ("device", CallErrorKind.UNAVAILABLE, {"remedy": "plug it in"}, []),
        ("exit", CallErrorKind.FAILED, {"error": "SystemExit"}, ["points.fail SystemExit(3)"]),
        ("bug", CallErrorKind.FAILED, {"error": "ZeroDivisionError"}, ["points.fail ZeroDivisionError('by zero')"]),
    ],
)
async def test_what_a_handler_raises_is_the_answer(
    pair: Any, errors: list[str], *, how: str, kind: CallErrorKind, data: dict[str, str], logged: list[str]
) -> None:
    async with pair as ends:
        with pytest.raises(CallError) as caught:
            await stub(Points, requester(ends.left), Terms()).fail(how=how)

    assert (caught.value.kind, caught.value.data) == (kind, data)
    assert errors == logged


async def test_a_stream_that_fails_tells_why(pair: Any, errors: list[str]) -> None:
    async with pair as ends:
        line = stub(Points, requester(ends.left), Terms()).line(upto=13)
        assert [(await anext(line)).x for _ in range(13)] == list(range(13))
        with pytest.raises(CallError, match="unlucky"):
            await anext(line)

    assert errors == ["points.line ZeroDivisionError('unlucky')"]


async def test_a_wrong_item_from_the_caller_names_its_number(pair: Any) -> None:
    async def wrong() -> AsyncIterator[Any]:
        yield Point(1)
        yield "not a point"

    async with pair as ends:
        with pytest.raises(CallError, match="item 1 of 'points'"):
            await stub(Points, requester(ends.left), Terms()).total(points=wrong())


@pytest.mark.parametrize("method", ["point.move", "points.mov", "nothing.at-all", "points"])
async def test_an_unknown_method_is_told_with_the_nearest(handlers: Handlers, method: str) -> None:
    with pytest.raises(CallError) as caught:
        await dispatch(handlers, method, {})

    assert caught.value.kind is CallErrorKind.UNKNOWN_METHOD


async def test_a_stub_refuses_what_the_interface_does_not_have(pair: Any) -> None:
    async with pair as ends:
        points: Any = stub(Points, requester(ends.left), Terms())
        with pytest.raises(TypeError, match="pont"):
            await points.move(pont=Point(1))
        with pytest.raises(AttributeError, match="no method 'fly'"):
            points.fly()


async def test_an_answer_of_the_wrong_type_is_the_peers_failure() -> None:
    async def lie(call: Call, body: bytes, items: Any) -> Result:
        return Result(b"\xa3abc")

    with pytest.raises(CallError, match="Expected `object`"):
        await stub(Points, lie, Terms()).move(point=Point(1))
    with pytest.raises(CallError, match="a stream was expected"):
        [point async for point in stub(Points, lie, Terms()).line(upto=1)]


def test_a_handler_must_have_every_method(handlers: Handlers) -> None:
    with pytest.raises(TypeError, match="has no move"):
        handlers.bind(Points, object())


async def test_leaving_a_stream_early_ends_it(pair: Any) -> None:
    async with pair as ends:
        async for _ in stub(Points, requester(ends.left), Terms()).line(upto=1000):
            break
        await anyio.wait_all_tasks_blocked()
        assert ends.right.in_flight == (0, 0)
