"""Drained sockets: nothing is left lying, nobody holds up another, and what ends is closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import zmq

from sparkd.bus import Drained, context, finish
from sparkd.bus.sockets import BATCH
from tests.bus.bus_rig import until

pytestmark = pytest.mark.anyio


def small_queues(socket: zmq.Socket[bytes]) -> None:
    socket.set_hwm(10)


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
