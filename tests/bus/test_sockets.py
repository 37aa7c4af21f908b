"""Drained sockets: nothing is left lying, nobody holds up another, and what ends is closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import zmq

from sparkd.bus import DealerChannel, Drained, RouterChannel, context, finish
from sparkd.bus.sockets import BATCH, PEER_QUEUE
from sparkd.errors import CallError, CallErrorKind
from tests.bus.bus_rig import until

pytestmark = pytest.mark.anyio


def small_queues(socket: zmq.Socket[bytes]) -> None:
    socket.set_hwm(10)


def send_many(router: RouterChannel, peer: bytes, count: int) -> None:
    for n in range(count):
        router.send(peer, [b"%d" % n, b"x" * 1000])


async def test_many_messages_both_ways_at_once_all_arrive_in_order(runtime: Path) -> None:
    """The descriptor tells once; without looking again after each send both sides stand still at once."""
    address, count = f"ipc://{runtime / 'r'}", 20 * BATCH
    heard: list[int] = []

    def answer(peer: bytes, frames: list[bytes]) -> None:
        router.send(peer, frames)

    def on_answer(frames: list[bytes]) -> None:
        heard.append(int(frames[0]))
        if heard[-1] + 100 < count:
            dealer.send([b"%d" % (heard[-1] + 100)])

    with RouterChannel(address, answer) as router, DealerChannel(address, on_answer) as dealer:
        for n in range(100):
            dealer.send([b"%d" % n])
        await until(lambda: len(heard) == count)
    assert heard == list(range(count))


async def test_a_peer_that_does_not_read_costs_the_others_nothing(runtime: Path) -> None:
    address = f"ipc://{runtime / 'r'}"
    peers: list[bytes] = []
    heard: list[bytes] = []
    stalled = context().socket(zmq.DEALER)
    small_queues(stalled)
    with (
        RouterChannel(address, lambda peer, _: peers.append(peer), configure=small_queues) as router,
        DealerChannel(address, lambda frames: heard.append(frames[0])) as healthy,
    ):
        stalled.connect(address)
        stalled.send(b"here")
        await until(lambda: len(peers) == 1)
        healthy.send([b"here"])
        await until(lambda: len(peers) == 2)
        with pytest.raises(CallError, match="peer does not read") as told:
            send_many(router, peers[0], PEER_QUEUE + 10_000)
        assert told.value.kind is CallErrorKind.UNAVAILABLE
        router.send(peers[1], [b"for the healthy one"])
        await until(lambda: heard == [b"for the healthy one"])

        got = 0
        while stalled.poll(0) or router._queues:  # once it reads again, it gets all that was taken for it, in order
            if stalled.poll(0):
                assert int(stalled.recv_multipart()[0]) == got
                got += 1
            await anyio.lowlevel.checkpoint()
        assert got > PEER_QUEUE
    stalled.close(linger=0)


async def test_a_peer_that_is_gone_is_said_to_be(runtime: Path) -> None:
    address = f"ipc://{runtime / 'r'}"
    peers: list[bytes] = []
    with RouterChannel(address, lambda peer, _: peers.append(peer)) as router:
        with DealerChannel(address, lambda _: None) as dealer:
            dealer.send([b"here"])
            await until(lambda: bool(peers))

        def told() -> bool:
            try:
                router.send(peers[0], [b"?"])
            except CallError as error:
                return error.kind is CallErrorKind.UNAVAILABLE and "gone" in error.message
            return False

        await until(told)
        with pytest.raises(CallError, match="gone"):
            dealer.send([b"closed"])


async def test_a_callback_that_fails_leaves_nothing_lying(runtime: Path) -> None:
    """Its error goes to the event loop's handler; the messages after it still come."""
    seen: list[bytes] = []
    complaints: list[object] = []
    loop_handler: Callable[..., None] = lambda _loop, told: complaints.append(told["exception"])  # noqa: E731 - short

    def take(frames: list[bytes]) -> None:
        seen.append(frames[0])
        if frames[0] == b"1":
            raise ValueError(frames)

    asyncio.get_running_loop().set_exception_handler(loop_handler)
    receiver, sender = context().socket(zmq.PULL), context().socket(zmq.PUSH)
    with Drained(receiver, take), sender:
        receiver.bind(f"ipc://{runtime / 'p'}")
        sender.connect(f"ipc://{runtime / 'p'}")
        for n in range(5):
            sender.send(b"%d" % n)
        await until(lambda: len(seen) == 5)
    assert [type(error) for error in complaints] == [ValueError]


async def test_a_batch_lets_others_have_their_turn(runtime: Path) -> None:
    seen: list[int] = []
    receiver, sender = context().socket(zmq.PULL), context().socket(zmq.PUSH)
    receiver.set_hwm(0)
    sender.set_hwm(0)
    receiver.bind("inproc://turns")
    sender.connect("inproc://turns")
    for _ in range(4 * BATCH):
        sender.send(b"x")
    with Drained(receiver, lambda _: seen.append(1)), sender:
        await anyio.lowlevel.checkpoint()
        assert 0 < len(seen) <= 2 * BATCH
        await until(lambda: len(seen) == 4 * BATCH)


def test_a_fork_gets_a_context_of_its_own() -> None:
    held = context()
    assert context() is held
    pid = os.fork()
    if pid == 0:
        os._exit(context() is held)
    assert os.waitpid(pid, 0)[1] == 0


def test_finish_closes_what_was_left_open_and_a_new_context_can_be_had() -> None:
    held = context()
    socket = held.socket(zmq.PUB)
    finish()
    finish()

    assert held.closed
    assert socket.closed
    assert not context().closed
