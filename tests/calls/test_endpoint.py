from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.calls.endpoint import Endpoint, Exchange
from sparkd.calls.frames import Cancel, Credit, End, Item, Open, Request, decode, encode
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.outgoing import Call, ItemStream, OutgoingCall, Result
from sparkd.errors import CallError, CallErrorKind

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.calls.call_pair",)

Body = Callable[[Request, Any, AsyncIterator[bytes]], Any]


def serving(dispatch: Body) -> Callable[[Endpoint, Request, bytes], Exchange]:
    return lambda endpoint, request, body: IncomingCall(endpoint, request, body, dispatch=dispatch)


async def echo(request: Request, body: bytes, items: AsyncIterator[bytes]) -> bytes:
    return request.method.encode() + b" " + body


async def count(request: Request, body: bytes, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(int(body)):
            yield b"%d" % number

    return numbers()


async def gather(request: Request, body: bytes, items: AsyncIterator[bytes]) -> bytes:
    return b",".join([item async for item in items])


async def double(request: Request, body: bytes, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async def doubled() -> AsyncIterator[bytes]:
        async for item in items:
            yield item * 2

    return doubled()


async def numbers(upto: int) -> AsyncIterator[bytes]:
    for number in range(upto):
        yield b"%d" % number


async def ask(endpoint: Endpoint, body: bytes = b"", items: AsyncIterator[bytes] | None = None, **terms: Any) -> Any:
    return await OutgoingCall(endpoint, Call(method="x.y", **terms), body, items).answer()


async def error_of_call(endpoint: Endpoint, **terms: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        await ask(endpoint, **terms)
    return caught.value


class Sleeper:
    """A handler that waits for ever, and says when it began and how it ended."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.cancelled = anyio.Event()

    async def __call__(self, *_given: object) -> bytes:
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()
        return b""


async def test_a_call_is_answered(make_pair: Any) -> None:
    async with make_pair(serving(echo)) as pair:
        assert await ask(pair.left, b"hello") == Result(b"x.y hello")
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


async def test_both_sides_call_at_once_with_the_same_ids(make_pair: Any) -> None:
    async with make_pair(serving(echo), serving(echo)) as pair, anyio.create_task_group() as tasks:
        answers: list[Result] = []

        async def one(endpoint: Endpoint, body: bytes) -> None:
            answers.append(await ask(endpoint, body))

        for number in range(50):
            tasks.start_soon(one, pair.left, b"l%d" % number)
            tasks.start_soon(one, pair.right, b"r%d" % number)

    expected = {b"x.y %s%d" % (side, number) for side in (b"l", b"r") for number in range(50)}
    assert {answer.body for answer in answers} == expected


@pytest.mark.parametrize("length", [0, 1, 16, 17, 1000])
async def test_a_stream_comes_whole_and_in_order(make_pair: Any, length: int) -> None:
    async with make_pair(serving(count)) as pair:
        stream = await ask(pair.left, b"%d" % length)

        assert isinstance(stream, ItemStream)
        assert [item async for item in stream] == [b"%d" % number for number in range(length)]
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


@pytest.mark.parametrize("length", [0, 1, 16, 17, 1000])
async def test_a_stream_from_the_caller_comes_whole_and_in_order(make_pair: Any, length: int) -> None:
    async with make_pair(serving(gather)) as pair:
        answer = await ask(pair.left, items=numbers(length))

        assert answer.body == b",".join(b"%d" % number for number in range(length))
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


async def test_streams_in_both_directions_at_once(make_pair: Any) -> None:
    async with make_pair(serving(double)) as pair:
        stream = await ask(pair.left, items=numbers(100))

        assert [item async for item in stream] == [b"%d%d" % (number, number) for number in range(100)]


async def test_no_item_is_sent_without_credit(make_pair: Any) -> None:
    async with make_pair(serving(count)) as pair:
        stream = await ask(pair.left, b"1000", credit=4)
        assert await anext(stream) == b"0"
        await anyio.wait_all_tasks_blocked()

        items = [head for head, _ in map(decode, pair.to_left.sent) if isinstance(head, Item)]

        assert len(items) == 4


async def test_no_item_of_the_caller_is_made_without_credit(make_pair: Any) -> None:
    made = 0

    async def making() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield b""

    async def take_one(request: Request, body: bytes, items: AsyncIterator[bytes]) -> bytes:
        await anext(items)
        await anyio.wait_all_tasks_blocked()
        return b"%d" % made

    async with make_pair(serving(take_one)) as pair:
        assert (await ask(pair.left, items=making())).body == b"16"


async def test_a_past_deadline_ends_the_call_at_both_ends(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair:
        error = await error_of_call(pair.left, deadline_s=0.01)

        assert error.kind is CallErrorKind.DEADLINE
        assert "0.01 s" in error.message
        await sleeper.cancelled.wait()
        await anyio.wait_all_tasks_blocked()
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


async def test_the_answerer_keeps_the_deadline_when_the_caller_does_not(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair:
        pair.right.feed(encode(Request(1, "x.y", 0.01)))
        await sleeper.cancelled.wait()
        await anyio.wait_all_tasks_blocked()

        assert "deadline" in repr(pair.to_left.sent)


async def test_a_stream_that_falls_silent_meets_its_deadline(make_pair: Any) -> None:
    async def silent(request: Request, body: bytes, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async def one_then_none() -> AsyncIterator[bytes]:
            yield b"one"
            await anyio.sleep_forever()

        return one_then_none()

    async with make_pair(serving(silent)) as pair:
        stream = await ask(pair.left, deadline_s=0.02)
        assert await anext(stream) == b"one"
        with pytest.raises(CallError) as caught:
            await anext(stream)

        assert caught.value.kind is CallErrorKind.DEADLINE


async def test_a_cancelled_caller_cancels_the_handler(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair, anyio.create_task_group() as tasks:
        tasks.start_soon(ask, pair.left)
        await sleeper.began.wait()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await sleeper.cancelled.wait()
    assert pair.left.in_flight == pair.right.in_flight == (0, 0)


@pytest.mark.parametrize("how", ["aclose", "dropped"])
async def test_a_stream_left_early_is_cancelled_at_its_source(make_pair: Any, how: str) -> None:
    closed = anyio.Event()

    async def endless(request: Request, body: bytes, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async def ones() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"1"
            finally:
                closed.set()

        return ones()

    async with make_pair(serving(endless)) as pair:
        stream = await ask(pair.left)
        await anext(stream)
        if how == "aclose":
            await stream.aclose()
        del stream
        await closed.wait()
        await anyio.wait_all_tasks_blocked()
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


async def test_an_answer_before_the_end_of_the_callers_stream_stops_that_stream(make_pair: Any) -> None:
    closed = anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"1"
        finally:
            closed.set()

    async def enough(request: Request, body: bytes, items: AsyncIterator[bytes]) -> bytes:
        return await anext(items)

    async with make_pair(serving(enough)) as pair:
        assert (await ask(pair.left, items=endless())).body == b"1"
        await closed.wait()


async def test_the_callers_own_iterator_failing_fails_the_call_with_its_error(make_pair: Any) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"1"
        raise KeyError("mine")

    async with make_pair(serving(gather)) as pair:
        with pytest.raises(KeyError, match="mine"):
            await ask(pair.left, items=failing())
        await anyio.wait_all_tasks_blocked()
        assert pair.right.in_flight == (0, 0)


async def test_death_of_the_peer_fails_its_answers_and_cancels_its_calls(make_pair: Any) -> None:
    there, here = Sleeper(), Sleeper()
    async with make_pair(serving(there), serving(here)) as pair, anyio.create_task_group() as tasks:
        errors: list[CallError] = []

        async def fails(endpoint: Endpoint) -> None:
            errors.append(await error_of_call(endpoint))

        tasks.start_soon(fails, pair.left)
        tasks.start_soon(fails, pair.right)
        await there.began.wait()
        await here.began.wait()
        pair.die()
        await there.cancelled.wait()
        await here.cancelled.wait()
    assert [error.kind for error in errors] == [CallErrorKind.UNAVAILABLE] * 2
    assert errors[0].message == "right: gone"
    assert (await error_of_call(pair.left)).kind is CallErrorKind.UNAVAILABLE


async def test_death_in_the_middle_of_a_stream_is_told_after_the_items_that_came(make_pair: Any) -> None:
    async with make_pair(serving(count)) as pair:
        stream = await ask(pair.left, b"100")
        await anyio.wait_all_tasks_blocked()
        pair.die()
        assert [await anext(stream) for _ in range(16)][15] == b"15"
        with pytest.raises(CallError) as caught:
            await anext(stream)

        assert caught.value.kind is CallErrorKind.UNAVAILABLE


async def test_a_peer_that_does_not_read_is_unavailable(make_pair: Any) -> None:
    async with make_pair(serving(echo)) as pair:
        pair.to_right.stuck = True

        assert "does not read" in str(await error_of_call(pair.left))
        assert pair.left.in_flight == (0, 0)


async def test_calls_in_flight_are_bounded_on_either_side(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper), max_in_flight=2) as pair, anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(ask, pair.left)
        await anyio.wait_all_tasks_blocked()

        error = await error_of_call(pair.left)

        assert error.kind is CallErrorKind.UNAVAILABLE
        assert "2 calls" in error.message
        assert pair.right.counts.refused == 1
        tasks.cancel_scope.cancel()


async def test_a_stopping_service_tells_its_callers(make_pair: Any) -> None:
    async def cancelled_inside(request: Request, body: bytes, items: AsyncIterator[bytes]) -> bytes:
        raise anyio.get_cancelled_exc_class()

    async with make_pair(serving(cancelled_inside)) as pair:
        assert (await error_of_call(pair.left)).kind is CallErrorKind.CANCELLED


@pytest.mark.parametrize(
    "wrong",
    [
        [Item(1, 0, answer=True)],
        [Open(1), Item(1, 1, answer=True)],
        [Open(1), Open(1)],
        [Open(1), *(Item(1, n, answer=True) for n in range(17))],
        [Credit(1, 0, answer=True)],
        [Credit(1, -5, answer=True)],
    ],
    ids=["item without open", "gap", "two opens", "beyond credit", "no credit", "negative credit"],
)
async def test_a_peer_that_breaks_the_protocol_costs_itself_one_call(make_pair: Any, wrong: list[Any]) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair, anyio.create_task_group() as tasks:
        errors: list[CallError] = []

        async def fails() -> None:
            try:
                stream = await ask(pair.left)
                async for _ in stream:
                    pass
            except CallError as error:
                errors.append(error)

        tasks.start_soon(fails)
        await sleeper.began.wait()
        for head in wrong:
            pair.left.feed(encode(head))
        await sleeper.cancelled.wait()
        await anyio.wait_all_tasks_blocked()
        assert "broke the protocol" in errors[0].message
        assert pair.left.counts.malformed == 1
        assert pair.left.in_flight == pair.right.in_flight == (0, 0)


async def test_a_caller_that_sends_items_nobody_asked_for_fails_its_call(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair:
        pair.right.feed(encode(Request(1, "x.y", 5.0)))
        await sleeper.began.wait()
        pair.right.feed(encode(Item(1, 0, answer=False)))
        await sleeper.cancelled.wait()
        await anyio.wait_all_tasks_blocked()
        assert pair.right.counts.malformed == 1
        assert "protocol" in repr(pair.to_left.sent)


async def test_a_request_with_an_id_in_use_leaves_the_first_alone(make_pair: Any) -> None:
    sleeper = Sleeper()
    async with make_pair(serving(sleeper)) as pair:
        pair.right.feed(encode(Request(1, "x.y", 5.0)))
        pair.right.feed(encode(Request(1, "x.y", 5.0)))

        assert pair.right.counts.malformed == 1
        assert pair.right.in_flight == (0, 1)


async def test_messages_after_the_end_of_their_call_are_only_counted(make_pair: Any) -> None:
    async with make_pair(serving(echo)) as pair:
        await ask(pair.left)
        for head in (End(1, answer=True), Item(1, 0, answer=True), Cancel(1), Credit(1, 1, answer=False)):
            pair.left.feed(encode(head))

        assert pair.left.counts.late == 4


class Silent:
    def send(self, frames: list[bytes], /) -> None:
        pass


@given(
    st.lists(
        st.one_of(
            st.lists(st.binary(max_size=40), max_size=3),
            st.builds(
                lambda head: encode(head, b"x"),
                st.one_of(
                    st.builds(Request, st.integers(0, 3), st.text(max_size=9), st.floats(0.1, 1)),
                    st.builds(Open, st.integers(0, 3)),
                    st.builds(Item, st.integers(0, 3), st.integers(-1, 3), st.booleans()),
                    st.builds(Credit, st.integers(0, 3), st.integers(-1, 3), st.booleans()),
                    st.builds(End, st.integers(0, 3), st.booleans()),
                    st.builds(Cancel, st.integers(0, 3)),
                ),
            ),
        ),
        max_size=30,
    )
)
def test_no_sequence_of_frames_hurts(sequence: list[list[bytes]]) -> None:
    async def attack() -> None:
        async with anyio.create_task_group() as tasks:
            endpoint = Endpoint(Silent(), accept=serving(double), tasks=tasks)
            with anyio.CancelScope():
                call = OutgoingCall(endpoint, Call(method="x.y"), b"")
                for frames in sequence:
                    endpoint.feed(frames)
                    await anyio.lowlevel.checkpoint()
                call.cancel()
            endpoint.close()
            assert endpoint.in_flight == (0, 0)
            tasks.cancel_scope.cancel()

    anyio.run(attack)
