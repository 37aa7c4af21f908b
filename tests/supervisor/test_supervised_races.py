"""What is said to a service at an awkward moment, and what goes wrong beneath its keeper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from sparkd import CallError, CallErrorKind, State
from sparkd.service import Manifest
from sparkd.supervisor import End, EndKind, Instance, Plan, Supervised, Supervisor
from sparkd.supervisor.supervised import Wanted
from tests.supervisor.script import Script, Scripted, plan, service

pytestmark = pytest.mark.anyio


class Slow(Scripted):
    """Is ready when the test says so, and stops only when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_be_ready, self.may_stop, self.stopping = anyio.Event(), anyio.Event(), anyio.Event()

    async def ready(self) -> None:
        await self.may_be_ready.wait()

    async def stop(self, limit_s: float) -> None:
        self.stopping.set()
        await self.may_stop.wait()
        await super().stop(limit_s)


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_ready_while_it_is_being_stopped_changes_nothing() -> None:
    slow = Slow()
    script = Script(slow)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.STARTING)
        await settle()
        watched.want(Wanted.STOP)
        await slow.stopping.wait()
        slow.may_be_ready.set()
        await settle()
        assert watched.state is State.STOPPING
        slow.may_stop.set()
        await script.until(watched, State.STOPPED)


async def test_run_again_while_it_stops_starts_it_afterwards() -> None:
    slow, second = Slow(), Scripted()
    slow.may_be_ready.set()
    script = Script(slow, second)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        watched.want(Wanted.STOP)
        await slow.stopping.wait()
        watched.want(Wanted.RUN)
        slow.may_stop.set()
        await script.until(watched, State.RUNNING)
        assert script.states[-4:] == [State.STOPPING, State.STOPPED, State.STARTING, State.RUNNING]


async def test_wanted_that_flips_before_anybody_looks_leaves_it_running() -> None:
    script = Script(Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        for wanted in (Wanted.STOP, Wanted.RUN, Wanted.SHED, Wanted.RUN):
            watched.want(wanted)
        await settle()
        assert (watched.state, script.started) == (State.RUNNING, 1)
        watched.want(Wanted.STOP)
        await script.until(watched, State.STOPPED)


async def test_a_restart_while_it_is_being_launched_ends_the_run_by_the_old_plan() -> None:
    launching, go = anyio.Event(), anyio.Event()
    script = Script(Scripted(), Scripted())
    watched = service(script)
    plans: list[float] = []
    launch = script.launch

    @asynccontextmanager
    async def slowly(plan: Plan) -> AsyncIterator[Instance]:
        plans.append(plan.start_limit_s)
        launching.set()
        await go.wait()
        async with launch(plan) as instance:
            yield instance

    script.launch = slowly  # type: ignore[method-assign] # so that the test decides when it is launched
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await launching.wait()
        watched.replan(plan(start_limit_s=7.0))
        watched.ask_restart()
        go.set()
        await script.until(watched, State.RUNNING)
        while script.started < 2 or watched.state is not State.RUNNING:
            await script.news.wait()
        assert plans == [10.0, 7.0]


async def test_a_restart_during_back_off_is_at_once_and_does_not_wait_for_the_new_run() -> None:
    first, second = Scripted(), Scripted()
    script = Script(first, second)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        first.finish(End(kind=EndKind.FAILED, reason="no"))
        await script.until(watched, State.BACKOFF)
        with anyio.fail_after(0.5):
            await watched.restart()
            await script.until(watched, State.RUNNING)
            await watched.restart()
            await script.until(watched, State.RUNNING)
        assert script.started == 3


@pytest.mark.parametrize("start", [State.BACKOFF, State.WAITING, State.BROKEN])
async def test_a_service_that_pauses_is_shed_at_once(start: State) -> None:
    kinds = {
        State.BACKOFF: EndKind.FAILED,
        State.WAITING: EndKind.MISSING,
        State.BROKEN: EndKind.MISCONFIGURED,
    }
    first = Scripted()
    script = Script(first, Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        first.finish(End(kind=kinds[start], reason="no"))
        await script.until(watched, start)
        watched.want(Wanted.SHED)
        await script.until(watched, State.SHED)
        watched.ask_restart()  # new code: still shed
        await settle()
        assert watched.state is State.SHED


async def test_a_keeper_survives_its_own_mistakes() -> None:
    script = Script(Scripted())
    watched = service(script)
    other = service(script)
    other.plan = Plan(**{**plan_fields(other.plan), "manifest": Manifest(plugin="q", name="q")})

    async def missing(_plan: Plan) -> End | None:
        raise PermissionError("closed")

    watched.missing = missing
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        supervisor.add(other)
        await supervisor.attempted()
        assert (watched.state, watched.end.reason) == (State.BACKOFF, "PermissionError: closed")
        await script.until(other, State.RUNNING)
        watched.missing = other.missing
        watched.poke()
        await script.until(watched, State.RUNNING)


def plan_fields(held: Plan) -> dict[str, Any]:
    return {name: getattr(held, name) for name in Plan.__slots__}


async def test_a_listener_that_raises_changes_nothing() -> None:
    script = Script(Scripted())
    watched = service(script)

    def raises(_service: Supervised) -> None:
        raise RuntimeError("no")

    watched.on_change = raises
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await supervisor.attempted()
        assert watched.state is State.RUNNING


async def test_an_instance_that_breaks_its_promises_costs_only_itself() -> None:
    class Broken(Scripted):
        async def ended(self) -> End:
            raise ValueError("the result is too large")

    script = Script(Broken(), Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.BACKOFF)
        assert "too large" in watched.end.reason
        watched.poke()
        await script.until(watched, State.RUNNING)


async def test_a_ping_that_cannot_be_sent_is_no_failure_of_the_node() -> None:
    class Unheard(Scripted):
        async def ping(self) -> None:
            raise CallError(CallErrorKind.UNAVAILABLE, "service 'p' is running")

    script = Script(Unheard())
    watched = service(script, watchdog_s=0.02)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.BACKOFF)
        assert "could not be reached for 0.02 s: service 'p' is running" in watched.end.reason


async def test_a_service_too_busy_to_be_asked_is_left_alone() -> None:
    asked = anyio.Event()

    class Busy(Scripted):
        pings_made = 0

        async def ping(self) -> None:
            self.pings_made += 1
            if self.pings_made > 3:
                asked.set()
            raise CallError(CallErrorKind.UNAVAILABLE, "256 calls are under way", busy=True)

    script = Script(Busy())
    watched = service(script, watchdog_s=0.01)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        with anyio.fail_after(5):
            await asked.wait()
        assert (watched.state, watched.restarts) == (State.RUNNING, 0)


async def test_a_complaint_that_comes_before_ready_is_seen_is_kept() -> None:
    slow = Slow()
    slow.may_stop.set()
    script = Script(slow)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.STARTING)
        watched.degrade("no cloud" + "\x1b[2J", "wait")
        slow.may_be_ready.set()
        await script.until(watched, State.DEGRADED)
        assert watched.end.reason == r"no cloud\x1b[2J"


async def test_a_stop_that_nobody_asked_for_is_a_failure_with_a_pause() -> None:
    first = Scripted()
    script = Script(first, Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        first.finish(End(kind=EndKind.STOPPED))
        await script.until(watched, State.BACKOFF)
        assert "nobody had asked" in watched.end.reason


async def test_what_is_removed_is_gone_before_another_of_its_name_comes() -> None:
    ended: list[str] = []
    script = Script(Scripted(), Scripted())
    launch = script.launch

    @asynccontextmanager
    async def noted(plan: Plan) -> AsyncIterator[Instance]:
        try:
            async with launch(plan) as instance:
                yield instance
        finally:
            with anyio.CancelScope(shield=True):
                await settle()
            ended.append(plan.name)

    script.launch = noted  # type: ignore[method-assign] # to see its end
    async with Supervisor().open() as supervisor:
        watched = service(script)
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        await supervisor.remove("p")
        assert ended == ["p"]
        supervisor.add(service(script))
        await supervisor.attempted()
