"""A NAS that hangs, is slow, full, gone or lies, seen from the whole of a node's memory."""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

import anyio
import pytest

from sparkd import CallError
from sparkd.testing import short_folder
from sparkd_plugins.nas_tier.directory_config import DirectoryConfig
from tests.plugins.memory_world import MemoryNode, World
from tests.plugins.slow_disk import SlowDisk, slow_disk

pytestmark = pytest.mark.timeout(120)
NO_ANSWER = r"unavailable|deadline"
STALL_S = 1.0
"""No event loop stands still for so long, on a busy machine either; a call on the frozen NAS takes five times that."""


def run(test: Callable[[MemoryNode, SlowDisk], Awaitable[None]]) -> None:
    with short_folder() as folder, slow_disk(folder) as disk:

        async def main() -> None:
            nas = DirectoryConfig(path=disk.path, timeout_s=0.5, threads=4, free_least_bytes=0)
            node = World(folder).node("home", hot=True, nas=nas, through_s=1.0)
            async with node.running():
                await test(node, disk)
                disk.now()
                if disk.stopped:
                    disk.thaw()

        anyio.run(main)


class Heart:
    """Measures how long the event loop stood still at the most."""

    worst_s = 0.0

    async def beat(self) -> None:
        while True:
            begun = time.monotonic()
            await anyio.sleep(0.005)
            self.worst_s = max(self.worst_s, time.monotonic() - begun - 0.005)


def test_a_frozen_nas_stalls_nobody_is_left_alone_and_comes_back_by_itself() -> None:
    async def test(node: MemoryNode, disk: SlowDisk) -> None:
        for number in range(20):
            await node.put(f"k{number}", b"%d" % number)
        heart = Heart()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heart.beat)
            disk.freeze()
            nas = node.memory.parts.places.named("nas")
            assert nas is not None
            with anyio.fail_after(20):
                while not nas.open:
                    with pytest.raises(CallError, match=NO_ANSWER):
                        await node.get("never seen")
            begun = time.monotonic()
            for number in range(20):  # they are hot
                assert await node.get(f"k{number}") == b"%d" % number
            assert time.monotonic() - begun < 3
            written = await node.put("offline", b"x")
            assert written.pending == ["nas"]
            assert await node.get("offline") == b"x"
            disk.thaw()
            await node.settled(limit_s=30)
            assert await node.get("never seen") is None
            tasks.cancel_scope.cancel()
        assert heart.worst_s < STALL_S

    run(test)


def test_a_full_nas_is_said_and_writes_go_there_when_there_is_room() -> None:
    async def test(node: MemoryNode, disk: SlowDisk) -> None:
        await node.put("before", b"1")
        disk.now(full=True)
        assert (await node.put("k", b"2")).pending == ["nas"]
        assert await node.get("k") == b"2"
        assert await node.get("before") == b"1"
        disk.now()
        await node.settled(limit_s=30)

    run(test)


def test_a_nas_that_fails_every_call_is_said_and_comes_back() -> None:
    async def test(node: MemoryNode, disk: SlowDisk) -> None:
        await node.put("k", b"1")
        disk.now(errno=errno.EIO)
        assert await node.get("k") == b"1"
        with pytest.raises(CallError, match=NO_ANSWER):
            await node.get("other")
        disk.now()
        with anyio.fail_after(20):
            while True:
                try:
                    assert await node.get("other") is None
                except CallError:
                    await anyio.sleep(0.05)
                else:
                    break

    run(test)


def test_a_nas_that_lies_gives_no_wrong_value() -> None:
    async def test(node: MemoryNode, disk: SlowDisk) -> None:
        large = bytes(range(256)) * 1000
        await node.put("large", large, "news")
        await node.settled()
        await node.do("invalidate", namespace="news")
        disk.now(corrupt=True)
        assert await node.get("large", "news") == large  # from tier 3
        disk.now()

    run(test)
