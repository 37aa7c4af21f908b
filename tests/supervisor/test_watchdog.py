"""What counts against a service that does not answer, and what does not; and where a dump says it is stuck."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from sparkd.supervisor import watchdog
from sparkd.supervisor.stuck import process_state, stuck_in
from sparkd.supervisor.watchdog import first_hang
from tests.supervisor.script import Scripted

LIMIT_S = 0.2


async def found_after(instance: Scripted, limit_s: float = LIMIT_S) -> float:
    begun = time.monotonic()
    with anyio.fail_after(10):
        await first_hang(instance, limit_s)
    return time.monotonic() - begun


class Starved(Scripted):
    def __init__(self, share: float) -> None:
        super().__init__(pings=False)
        self.share = share

    def starved_s(self) -> float:
        return time.monotonic() * self.share


@pytest.mark.anyio
async def test_a_service_that_shares_the_processor_has_its_limit_and_no_more() -> None:
    assert LIMIT_S <= await found_after(Starved(0.6)) < LIMIT_S * 2


@pytest.mark.anyio
async def test_one_without_a_processor_gets_more_time_but_not_for_ever() -> None:
    assert LIMIT_S * watchdog.PATIENCE <= await found_after(Starved(1.0)) < LIMIT_S * (watchdog.PATIENCE + 1)


@pytest.mark.anyio
async def test_time_in_which_the_core_itself_was_late_does_not_count() -> None:
    async def block() -> None:
        await anyio.sleep(LIMIT_S / 2)
        time.sleep(watchdog.LATE_S + 0.2)  # the core's own loop

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(block)
        assert await found_after(Scripted(pings=False)) >= LIMIT_S / 2 + watchdog.LATE_S + 0.2 + LIMIT_S


@pytest.mark.anyio
async def test_time_in_which_the_machine_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, clock = time.monotonic(), time.clock_gettime

    def slept(which: int) -> float:  # the kernel's clock, as after a suspend of an hour in the middle of the limit
        return clock(which) + (3600.0 if time.monotonic() - begun > LIMIT_S / 2 else 0.0)

    monkeypatch.setattr(time, "clock_gettime", slept)
    assert await found_after(Scripted(pings=False)) >= LIMIT_S * 1.4


@pytest.mark.anyio
async def test_one_that_a_debugger_holds_is_left_alone() -> None:
    class Traced(Scripted):
        def is_traced(self) -> bool:
            return True

    with anyio.move_on_after(LIMIT_S * 4) as patience:
        await first_hang(Traced(pings=False), LIMIT_S)
    assert patience.cancelled_caught


HOME = Path("/etc/sparkd/plugins/it.py")
IDLE = [
    "Thread 0x00007f0000000001 (most recent call first):",
    '  File "/usr/lib/python3.11/threading.py", line 1 in wait',
    '  File "/etc/sparkd/plugins/it.py", line 7 in work',
    "Thread 0x00007f0000000002 (most recent call first):",
    '  File "/usr/lib/python3.11/asyncio/runners.py", line 118 in run',
]


def test_the_main_threads_own_line_counts_first() -> None:
    dump = [*IDLE, '  File "/etc/sparkd/plugins/it.py", line 30 in run']
    stuck = stuck_in(dump, HOME)
    assert (stuck.file, stuck.line, stuck.stack) == (str(HOME), 30, tuple(dump))


def test_a_threads_line_counts_if_the_main_one_waits() -> None:
    assert stuck_in(IDLE, HOME).line == 7


def test_without_any_line_of_the_plugin_it_is_the_main_threads_innermost() -> None:
    stuck = stuck_in(IDLE, Path("/elsewhere"))
    assert (stuck.file, stuck.line) == ("/usr/lib/python3.11/asyncio/runners.py", 118)
    assert stuck_in([], HOME).file == ""


def test_the_state_of_a_process_is_the_kernels_letter() -> None:
    assert process_state(1) in "RSD"
    assert process_state(2**22 + 1) == ""
