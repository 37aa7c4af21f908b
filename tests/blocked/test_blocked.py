"""A loop that is blocked, watched by the real thing on a real uvloop: what is named, and what is not."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd.blocked import BLOCKED_S, Block, watch_loop
from sparkd.blocked.probe import Probe

HERE = [__file__]


def watched(deed: Callable[[list[Block]], Awaitable[None]], homes: list[str] = HERE) -> list[Block]:
    """Run *deed* on a uvloop that is watched; return the blocks found."""
    found: list[Block] = []

    async def main() -> None:
        async with watch_loop(found.append, lambda: homes) as works:
            assert works
            await anyio.sleep(0.05)
            await deed(found)
            await anyio.sleep(0.1)

    anyio.run(main, backend_options={"use_uvloop": True})
    return found


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line and "line_of" not in line)


async def sleeps(_found: list[Block]) -> None:
    time.sleep(0.3)  # here it sleeps


async def computes(_found: list[Block]) -> None:
    end = time.thread_time() + 0.3  # processor time: what is spent waiting for one does not count
    while time.thread_time() < end:
        sum(range(50_000))  # here it computes


async def holds(_found: list[Block]) -> None:
    ctypes.PyDLL(None).usleep(300_000)  # here it holds the interpreter


async def waits(_found: list[Block]) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.3)  # here it waits


@pytest.mark.parametrize(
    ("deed", "text"), [(sleeps, "sleeps"), (computes, "computes"), (holds, "holds the interpreter"), (waits, "waits")]
)
def test_what_blocks_is_named_with_its_time(deed: Any, text: str) -> None:
    (block,) = watched(deed)
    assert 0.25 <= block.seconds <= 1.0
    assert block.file == __file__
    assert abs(block.line - line_of(f"# here it {text}")) <= 1


def test_the_innermost_line_is_named_where_no_code_of_a_plugin_is() -> None:
    (block,) = watched(computes, homes=["/elsewhere"])
    assert block.file == __file__


def test_a_round_of_many_short_callbacks_is_not_blocked() -> None:
    async def many(found: list[Block]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(15_000):
            loop.call_soon(sum, range(1500)) if number % 3000 < 2000 else loop.call_soon(lambda: sum(range(1500)))
        begun = time.monotonic()
        await anyio.lowlevel.checkpoint()
        assert time.monotonic() - begun > BLOCKED_S

    assert watched(many) == []


def test_a_busy_loop_that_goes_round_is_not_blocked_and_a_block_in_it_is_found() -> None:
    async def busy(found: list[Block]) -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            await anyio.sleep(0)
        assert found == []
        time.sleep(0.2)  # in the midst of work
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            await anyio.sleep(0)

    (block,) = watched(busy)
    assert block.line == line_of("# in the midst of work")


def test_every_block_is_found_whenever_it_comes() -> None:
    async def often(found: list[Block]) -> None:
        for number in range(20):
            await anyio.sleep(0.02 + number % 7 * 0.003)
            time.sleep(0.16)

    assert len(watched(often)) == 20


def test_a_block_that_may_never_end_is_told_of_while_it_lasts() -> None:
    async def long(found: list[Block]) -> None:
        time.sleep(2.3)

    during, after = watched(long)
    assert (during.over, after.over) == (False, True)
    assert during.seconds < after.seconds


def test_an_idle_loop_costs_nothing() -> None:
    switches = []

    async def idle(_found: list[Block]) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        await anyio.sleep(1.5)
        switches.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)

    assert watched(idle) == []
    assert switches[0] <= 8  # once to sleep, once to wake up, and what it takes to see that it sleeps


@pytest.mark.anyio
async def test_a_loop_that_does_not_say_when_it_sleeps_is_not_watched() -> None:
    assert Probe.of(asyncio.get_running_loop(), lambda: None) is None
    async with watch_loop(lambda _block: None, list) as works:
        assert not works
