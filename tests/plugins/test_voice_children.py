"""Children that are asked, hang, die and are forgotten: real processes all."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from sparkd import CallError, CallErrorKind, DeviceError
from sparkd_plugins.voice_services.children import Child, Gate, Pool

pytestmark = pytest.mark.anyio

ECHO = """
import os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "hang":
        time.sleep(3600)
    if word == "die":
        os._exit(3)
    if word == "crash":
        os.abort()
    if word == "flood":
        while True: sys.stdout.write("x" * 65536)
    print(os.getpid(), word, flush=True)
"""


async def greeted(child: Child) -> None:
    assert await child.line() == b"ready"


@asynccontextmanager
async def pool(
    program: str = ECHO,
    *,
    workers: int = 1,
    max_waiting: int = 2,
    idle_unload_s: float = 0.0,
    start_limit_s: float = 20.0,
) -> AsyncIterator[Pool]:
    made = Pool(
        "echo",
        [sys.executable, "-c", program],
        greeted,
        gate=Gate("echo", at_once=workers, max_waiting=max_waiting),
        env=dict(os.environ),
        start_limit_s=start_limit_s,
        idle_unload_s=idle_unload_s,
    )
    async with anyio.create_task_group() as group:
        await group.start(made.run)
        yield made
        group.cancel_scope.cancel()


async def ask(of: Pool, word: str, deadline_s: float = 20.0) -> tuple[int, str]:
    async with of.turn(deadline_s) as child:
        await child.send(word.encode() + b"\n")
        pid, said = (await child.line()).decode().split()
        return int(pid), said


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_one_child_answers_one_request_after_the_other() -> None:
    async with pool() as echo:
        first, said = await ask(echo, "hello")
        second, _ = await ask(echo, "again")
        assert (said, first, echo.started) == ("hello", second, 1)
    assert gone(first)


@pytest.mark.parametrize(
    ("word", "said"), [("die", "exit code 3"), ("crash", "ended by SIGABRT"), ("hang", "no answer by the deadline")]
)
async def test_a_child_that_dies_or_hangs_is_replaced_by_the_next_request(word: str, said: str) -> None:
    async with pool() as echo:
        before, _ = await ask(echo, "hello")
        with pytest.raises(DeviceError, match=said):
            await ask(echo, word, 0.5)
        assert gone(before)
        after, _ = await ask(echo, "hello")
        assert after != before


async def test_a_child_that_floods_is_bounded() -> None:
    async with pool() as echo:
        with pytest.raises(DeviceError, match="a line without an end"):
            await ask(echo, "flood")


async def test_a_child_killed_while_idle_costs_nobody_an_error() -> None:
    async with pool() as echo:
        pid, _ = await ask(echo, "hello")
        os.kill(pid, 9)
        with anyio.fail_after(5):
            while echo._idle[0].alive:
                await anyio.sleep(0.01)
        assert (await ask(echo, "hello"))[0] != pid


async def test_what_fails_again_and_again_is_tried_with_back_off() -> None:
    async with pool() as echo:
        for _ in range(2):
            with pytest.raises(DeviceError, match="exit code 3"):
                await ask(echo, "die")
        started = echo.started
        with pytest.raises(DeviceError, match=r"failed 2 times; tried again in [12] s"):
            await ask(echo, "hello")
        assert echo.started == started
        echo._retry_at = 0.0
        assert (await ask(echo, "hello"))[1] == "hello"


async def test_a_child_that_never_loads_is_killed() -> None:
    async with pool("import time; time.sleep(3600)", start_limit_s=0.3) as echo:
        with pytest.raises(DeviceError, match="hangs"):
            await ask(echo, "hello")
        assert echo.loaded == 0


async def test_a_program_that_is_not_there_is_an_error_with_a_remedy() -> None:
    async with pool() as nothing:
        nothing._command = ["/nonexistent"]
        with pytest.raises(DeviceError, match="nonexistent") as caught:
            await ask(nothing, "hello")
        assert caught.value.remedy


async def test_a_caller_too_impatient_for_the_loading_leaves_the_child_to_the_next() -> None:
    async with pool("import time; time.sleep(0.6)\n" + ECHO) as slow:
        for _ in range(2):
            with anyio.move_on_after(0.1):
                await ask(slow, "hello")
        assert (await ask(slow, "hello"))[1] == "hello"
        assert slow.started == 1


async def test_a_child_that_nobody_waits_for_any_more_is_kept_once_loaded() -> None:
    async with pool("import time; time.sleep(0.3)\n" + ECHO) as slow:
        with anyio.move_on_after(0.1):
            await ask(slow, "hello")
        with anyio.fail_after(10):
            while not slow._idle:
                await anyio.sleep(0.01)
        assert (await ask(slow, "hello"))[1] == "hello"
        assert (slow.started, slow._left) == (1, [])


async def test_several_at_once_and_the_rest_refused() -> None:
    outcomes: list[object] = []

    async def one(of: Pool) -> None:
        try:
            await ask(of, "hang", 1.5)
        except (CallError, DeviceError) as error:
            outcomes.append(error.kind if isinstance(error, CallError) else "hung")

    async with pool(workers=2, max_waiting=1) as echo:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one, echo)
        assert outcomes.count(CallErrorKind.UNAVAILABLE) == 2, outcomes
        assert outcomes.count("hung") >= 2
        assert echo._gate.waiting == 0


async def test_a_cancelled_request_takes_its_child_along_and_frees_its_place() -> None:
    async with pool(max_waiting=0) as echo:
        pid, _ = await ask(echo, "hello")
        with anyio.move_on_after(0.2):
            await ask(echo, "hang")
        assert gone(pid)
        assert (await ask(echo, "hello"))[1] == "hello"
        assert echo._failures == 0


async def test_what_is_idle_too_long_is_unloaded() -> None:
    async with pool(idle_unload_s=0.2) as echo:
        pid, _ = await ask(echo, "hello")
        with anyio.fail_after(10):
            while not gone(pid):
                await anyio.sleep(0.02)
        assert echo.loaded == 0
        assert (await ask(echo, "hello"))[1] == "hello"
