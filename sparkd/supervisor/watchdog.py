"""Whether a service's event loop still answers, and what does not count against it.

Theory of operation: each service is pinged once a second, all in the same moment, so that an idle core wakes once for
all of them. A ping that stays unanswered for the service's limit means a hang; so a hang is found within the limit and
that second. What is counted is time in which the service could have answered. A core that was itself late or stopped, a
machine that slept, a debugger that holds the process: each gives it its whole limit again. Steps in which the kernel
had no processor for it are not counted, but only so often: a service at the limit of a cgroup must not stay for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import anyio

from sparkd.errors import CallError
from sparkd.supervisor.launch import Instance
from sparkd.supervisor.policy import End, EndKind

PING_S = 1.0
"""From a ping to the next; what a hang may take to be found beyond its limit."""
STEPS = 20
"""In so many steps the wait for an answer is measured, none longer than `STEP_MAX_S`."""
STEP_MAX_S = 0.5
LATE_S = 0.5
"""A step that takes so much longer than it should says that this process was late, not the service."""
ASLEEP_S = 0.1
"""A jump of the clock that counts while the machine sleeps against the one that does not."""
STARVED = 0.8
"""A step of which the service waited so large a part for a processor is not counted."""
PATIENCE = 3
"""How many times its limit a service may be starved before it counts as hung all the same."""


async def first_hang(instance: Instance, limit_s: float) -> End:
    """Ping *instance* until it leaves a ping unanswered for *limit_s*; return the end that this is."""
    every_s = min(limit_s / 2, PING_S)
    while True:
        unheard: list[str] = []
        if not await _answers(instance, limit_s, unheard):
            return _hang(limit_s, unheard)
        await anyio.sleep(every_s - time.monotonic() % every_s)


def _hang(limit_s: float, unheard: list[str]) -> End:
    if unheard:
        return End(kind=EndKind.FAILED, reason=f"it could not be reached for {limit_s:g} s: {unheard[-1]}")
    remedy = "move the blocking call to a thread (anyio.to_thread.run_sync)"
    return End(kind=EndKind.FAILED, reason=f"its event loop did not answer for {limit_s:g} s", remedy=remedy)


async def _answers(instance: Instance, limit_s: float, unheard: list[str]) -> bool:
    answered = False

    async def ask() -> None:
        nonlocal answered
        await _answer(instance, limit_s, unheard)
        answered = True
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await _silence(instance, limit_s)
        tasks.cancel_scope.cancel()
    return answered


async def _answer(instance: Instance, limit_s: float, unheard: list[str]) -> None:
    """Return once *instance* has answered; *unheard* gets the reasons why it could not be asked."""
    while True:
        try:
            await instance.ping()
        except CallError as error:  # it may be ending just now, which is told by `ended`
            if error.data.get("busy"):
                return
            unheard.append(error.message)
            await anyio.sleep(limit_s / 10)
        else:
            return


async def _silence(instance: Instance, limit_s: float) -> None:
    """Return once *instance* could have answered for *limit_s* in all."""
    step_s = min(limit_s / STEPS, STEP_MAX_S)
    left_s, spared_s = limit_s, 0.0
    last = _Moment(instance)
    while left_s > 0:
        await anyio.sleep(min(step_s, left_s))
        now = _Moment(instance)
        passed_s = now.at - last.at
        if now.excuses(last, passed_s - step_s):
            left_s = limit_s
        elif now.starved_s - last.starved_s > passed_s * STARVED and spared_s < limit_s * (PATIENCE - 1):
            spared_s += passed_s
        else:
            left_s -= passed_s
        last = now


@dataclass(slots=True)
class _Moment:
    """What the clocks and the kernel say at one moment."""

    instance: Instance
    at: float = field(default_factory=time.monotonic)
    awake_and_asleep: float = field(default_factory=lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
    starved_s: float = 0.0

    def __post_init__(self) -> None:
        self.starved_s = self.instance.starved_s()

    def excuses(self, last: _Moment, late_s: float) -> bool:
        """Whether since *last* something happened for which the service is not to blame."""
        slept_s = (self.awake_and_asleep - last.awake_and_asleep) - (self.at - last.at)
        return late_s > LATE_S or slept_s > ASLEEP_S or self.instance.is_traced()
