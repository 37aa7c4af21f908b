"""A NAS that hangs, is slow, full, gone or lies, seen from the whole of a node's memory."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
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
STALL_S = 0.05
"""No event loop is kept busy or waiting for so long."""


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
    """Measures how long the event loop was kept from its work at the most, beyond what the machine took of all.

    A thread beside it sleeps as long as the loop's own task does. A call that waits for the disk lets that thread run,
    so what both are late by is the machine's.
    """

    worst_s = 0.0

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=2000)
        self._over = threading.Event()

    def _beside(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            time.sleep(0.005)
            self._late.append((begun, time.monotonic()))

    async def beat(self) -> None:
        thread = threading.Thread(target=self._beside)
        thread.start()
        try:
            while True:
                begun = time.monotonic()
                await anyio.sleep(0.005)
                now = time.monotonic()
                beside = max((end - max(start, begun) for start, end in list(self._late) if end > begun), default=0.0)
                self.worst_s = max(self.worst_s, now - begun - max(beside, 0.005))
        finally:
            self._over.set()
            thread.join()


def asked_of_nas(node: MemoryNode) -> int:
    return sum(count for (tier, _), count in node.asked.items() if tier == "nas")


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
            asked = asked_of_nas(node)
            for number in range(20):  # they are hot
                assert await node.get(f"k{number}") == b"%d" % number
            assert asked == sum(count for (tier, _), count in node.asked.items() if tier == "nas"), (
                "nobody waits for it"
            )
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
