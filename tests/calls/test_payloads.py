"""Long bodies of calls: by reference between two services of a node, as bytes to anybody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from sparkd.calls import Call, OutgoingCall, Payloads, Result, requester
from sparkd.calls.endpoint import MAX_FRAME_BYTES
from sparkd.calls.frames import Request
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.payloads import SHARED_BYTES, whole
from sparkd.codec import Buffer
from sparkd.errors import CallError, CallErrorKind
from sparkd.reference import is_reference
from sparkd.shm import SharedReader, SharedWriter, make_root
from sparkd.testing import short_folder

if TYPE_CHECKING:
    from tests.calls.call_pair import Pair

pytestmark = pytest.mark.anyio
pytest_plugins = ("tests.calls.call_pair",)

MIB = 1 << 20
MakePair: TypeAlias = "Callable[..., AbstractAsyncContextManager[Pair]]"


@pytest.fixture
def root() -> Iterator[Path]:
    with short_folder() as folder:
        yield make_root(folder)


@pytest.fixture
def payloads(root: Path) -> Iterator[tuple[Payloads, Payloads]]:
    """Those of the caller, and of the one who answers."""
    writers = [SharedWriter(root, service=name, max_total_bytes=32 * MIB) for name in ("caller", "answerer")]
    yield Payloads(SharedReader(root), writers[0]), Payloads(SharedReader(root), writers[1])
    for writer in writers:
        writer.close()


async def turn(_request: Request, body: Buffer, _items: AsyncIterator[bytes]) -> bytes:
    return bytes(body)[::-1]


def accept(payloads: Payloads, dispatch: Any = turn) -> Any:
    return lambda endpoint, request, body: IncomingCall(endpoint, request, body, dispatch=payloads.serving(dispatch))


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.isdigit()]


def longest(pair: Pair) -> int:
    return max(len(body) for wire in (pair.to_left, pair.to_right) for _, body in wire.sent)


@pytest.mark.parametrize("size", [10, SHARED_BYTES, SHARED_BYTES + 1, 3 * MIB, 12 * MIB])
async def test_bodies_of_any_length_pass_and_nothing_stays(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path, size: int
) -> None:
    async with make_pair(accept(payloads[1])) as pair:
        call = payloads[0].calling(requester(pair.left))
        answer = await call(Call(method="x.y"), b"a" * (size - 1) + b"z", None)

        assert isinstance(answer, Result)
        assert bytes(answer.body) == b"z" + b"a" * (size - 1)
        assert longest(pair) <= SHARED_BYTES
    assert not files(root)


async def test_what_was_not_fetched_is_withdrawn_when_the_call_fails(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    async with make_pair(lambda endpoint, request, body: _refuse()) as pair:
        with pytest.raises(CallError, match="no"):
            await payloads[0].calling(requester(pair.left))(Call(method="x.y"), bytes(MIB), None)
        pair.die()
        with pytest.raises(CallError, match="gone"):
            await payloads[0].calling(requester(pair.left))(Call(method="x.y"), bytes(MIB), None)
    assert not files(root)


def _refuse() -> Any:
    raise CallError(CallErrorKind.DENIED, "no")


async def test_a_result_that_is_gone_is_an_error_and_never_something_else(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    def on_the_way(frames: list[bytes]) -> None:
        for path in files(root):
            path.unlink()
        deliver(frames)

    async with make_pair(accept(payloads[1])) as pair:
        deliver, pair.to_left.deliver = pair.to_left.deliver, on_the_way
        with pytest.raises(CallError, match="what was sent is gone") as caught:
            await payloads[0].calling(requester(pair.left))(Call(method="x.y"), bytes(MIB), None)
    assert caught.value.kind is CallErrorKind.UNAVAILABLE


async def test_more_than_there_may_be_is_refused_before_sending(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads]
) -> None:
    async with make_pair(accept(payloads[1])) as pair:
        with pytest.raises(CallError, match=r"half of \[bus\] shm_max_bytes") as caught:
            await payloads[0].calling(requester(pair.left))(Call(method="x.y"), bytes(17 * MIB), None)
        assert not pair.to_right.sent
    assert caught.value.data["error"] == "too-large"


async def test_a_result_that_is_too_long_is_a_typed_error(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads]
) -> None:
    async def much(*_given: object) -> bytes:
        return bytes(17 * MIB)

    async with make_pair(accept(payloads[1], much)) as pair:
        with pytest.raises(CallError) as caught:
            await payloads[0].calling(requester(pair.left))(Call(method="x.y"), b"", None)
    assert caught.value.data["error"] == "too-large"


async def test_full_memory_says_so_and_what_fits_a_message_goes_inline(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    other = SharedWriter(root, service="other", max_total_bytes=64 * MIB)
    held = [other.put([bytes(7 * MIB)], keep_s=60) for _ in range(4)]
    async with make_pair(accept(payloads[1])) as pair:
        call = payloads[0].calling(requester(pair.left))
        answer = await call(Call(method="x.y"), bytes(3 * MIB), None)
        assert isinstance(answer, Result)
        assert len(answer.body) == 3 * MIB
        with pytest.raises(CallError, match="shared memory is full") as caught:
            await call(Call(method="x.y"), bytes(7 * MIB), None)
    assert caught.value.kind is CallErrorKind.UNAVAILABLE
    assert len(held) == 4
    other.close()


@pytest.mark.parametrize("terms", [{"json": True}, {"hops": 1}])
async def test_who_cannot_follow_a_reference_gets_bytes(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], terms: dict[str, Any]
) -> None:
    async with make_pair(accept(payloads[1])) as pair:
        answer = await OutgoingCall(pair.left, Call(method="x.y", **terms), bytes(2 * MIB)).answer()
        assert isinstance(answer, Result)
        assert answer.body == bytes(2 * MIB)


async def test_towards_another_node_the_bytes_go_in_the_place_of_the_reference(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    """The right end is the router's end of a link: it answers for a service whose results are references."""
    outward = partial(whole, SharedReader(root))
    async with make_pair(accept(payloads[1], turn), outward=outward) as pair:
        answer = await OutgoingCall(pair.left, Call(method="x.y"), bytes(2 * MIB)).answer()
        assert isinstance(answer, Result)
        assert answer.body == bytes(2 * MIB)
        assert not is_reference(answer.body)
    assert not files(root)


async def test_what_is_too_long_for_another_node_is_a_typed_error(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    async def much(*_given: object) -> bytes:
        return bytes(MAX_FRAME_BYTES + 1)

    async with make_pair(accept(payloads[1], much), outward=partial(whole, SharedReader(root))) as pair:
        with pytest.raises(CallError, match="at the most to another node") as caught:
            await OutgoingCall(pair.left, Call(method="x.y"), b"").answer()
    assert caught.value.data["error"] == "too-large"


async def test_a_reference_from_another_node_is_malformed_and_opens_nothing(
    make_pair: MakePair, payloads: tuple[Payloads, Payloads], root: Path
) -> None:
    opened: list[Buffer] = []

    async def note(_request: Request, body: Buffer, _items: AsyncIterator[bytes]) -> bytes:
        opened.append(body)
        return b""

    async with make_pair(accept(payloads[1], note), outward=partial(whole, SharedReader(root))) as pair:
        with pytest.raises(CallError):
            await payloads[0].calling(requester(pair.left))(Call(method="x.y", deadline_s=0.3), bytes(MIB), None)
        assert pair.right.counts.malformed == 1
    assert not opened
