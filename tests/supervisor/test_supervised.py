"""The supervision of one service, with instances whose course the test decides."""

from __future__ import annotations

import anyio
import pytest

from sparkd import State
from sparkd.supervisor import End, EndKind, Plan, Supervisor
from sparkd.supervisor.supervised import Wanted
from tests.supervisor.script import Script, Scripted, service

pytestmark = pytest.mark.anyio


async def test_a_service_that_says_ready_runs() -> None:
    script = Script(Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await supervisor.attempted()

        assert watched.state is State.RUNNING
    assert script.states == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]


async def test_a_failure_is_kept_and_the_service_comes_back() -> None:
    first, second = Scripted(), Scripted()
    script = Script(first, second)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        first.finish(End(kind=EndKind.FAILED, reason="ValueError: no", file="p.py", line=3))
        await script.until(watched, State.BACKOFF)

        assert (watched.end.reason, watched.end.line, watched.restarts) == ("ValueError: no", 3, 1)
        watched.poke()
        await script.until(watched, State.RUNNING)


async def test_a_hang_before_ready_is_ended_at_the_start_limit_and_does_not_hold_ready() -> None:
    script = Script(Scripted(readies=False))
    watched = service(script, start_limit_s=0.01)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        with anyio.fail_after(5):
            await supervisor.attempted()

        assert watched.state is State.BACKOFF
        assert "did not call started() within 0.01 s" in watched.end.reason


async def test_a_blocked_loop_is_found_and_ended() -> None:
    script = Script(Scripted(pings=False))
    watched = service(script, watchdog_s=0.01)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.BACKOFF)

        assert "event loop did not answer" in watched.end.reason
        assert "to_thread" in watched.end.remedy


async def test_a_service_that_cannot_be_started_is_a_failure_with_the_systems_reason() -> None:
    script = Script(Scripted(cannot_start="Resource temporarily unavailable"))
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await supervisor.attempted()

        assert watched.state is State.BACKOFF
        assert "Resource temporarily unavailable" in watched.end.reason


async def test_five_failures_break_it_and_a_poke_tries_again() -> None:
    script = Script(Scripted(cannot_start="no"))
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        for _ in range(4):
            await script.until(watched, State.BACKOFF)
            watched.poke()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
        await script.until(watched, State.BROKEN)

        script.instances = [Scripted()]
        watched.want(Wanted.RUN)
        await script.until(watched, State.RUNNING)


async def test_stop_start_shed_and_disable() -> None:
    script = Script(Scripted(), Scripted(), Scripted(), Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        for wanted, state in (
            (Wanted.STOP, State.STOPPED),
            (Wanted.SHED, State.SHED),
            (Wanted.DISABLE, State.DISABLED),
        ):
            await script.until(watched, State.RUNNING)
            watched.want(wanted)
            await script.until(watched, state)
            watched.want(Wanted.RUN)
        await script.until(watched, State.RUNNING)


async def test_what_is_missing_is_waited_for() -> None:
    script = Script(Scripted())
    watched = service(script)
    there = False

    async def missing(_plan: Plan) -> End | None:
        return None if there else End(kind=EndKind.MISSING, reason="needs service:x")

    watched.missing = missing
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await supervisor.attempted()
        assert (watched.state, watched.end.reason) == (State.WAITING, "needs service:x")

        there = True
        watched.poke()
        await script.until(watched, State.RUNNING)


async def test_a_service_that_returns_is_done_and_is_not_started_again() -> None:
    once = Scripted()
    script = Script(once)
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        once.finish(End(kind=EndKind.FINISHED))
        await script.until(watched, State.STOPPED)

        assert script.started == 1


async def test_degraded_and_recovered() -> None:
    script = Script(Scripted())
    watched = service(script)
    async with Supervisor().open() as supervisor:
        supervisor.add(watched)
        await script.until(watched, State.RUNNING)
        watched.degrade("the cloud is away", "wait")
        assert (watched.state, watched.end.remedy) == (State.DEGRADED, "wait")
        watched.recover()
        assert (watched.state, watched.end.reason) == (State.RUNNING, "")


async def test_two_services_of_one_name_are_refused() -> None:
    async with Supervisor().open() as supervisor:
        supervisor.add(service(Script(Scripted())))
        with pytest.raises(ValueError, match="already"):
            supervisor.add(service(Script(Scripted())))
