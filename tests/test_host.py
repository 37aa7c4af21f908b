"""A service's host against a real router, socket and broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd.errors import CallError, CallErrorKind, DeviceError, LocalMessageError, StorageError
from sparkd.host import run_host, suspended_at
from sparkd.outbox import open_outbox
from sparkd.service import NoConfig
from sparkd.supervisor.failure import end_of, innermost
from sparkd.supervisor.policy import EndKind
from sparkd.testing import short_folder
from tests.host_rig import Core, Greeter, Greetings, Kept, Undeclared, core_in, listener, service

pytestmark = pytest.mark.anyio


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def core(runtime: Path) -> AsyncIterator[Core]:
    async with core_in(runtime) as opened:
        yield opened


async def sleeps(ctx: Any, *, task_status: Any) -> None:
    task_status.started()
    await anyio.sleep_forever()


async def raised_by(core: Core, run: Any, **declared: Any) -> BaseException:
    with anyio.fail_after(10):
        try:
            await core.run(service(run, **declared))
        except BaseException as error:  # what a host raises may be a group of anything
            return innermost(error)
    raise AssertionError("nothing was raised")


async def test_a_host_says_hello_binds_says_ready_answers_and_is_stopped(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        await ctx.serve(Greeter, Greetings())
        task_status.started()
        await anyio.sleep_forever()

    stopped: list[bool] = []

    async def host() -> None:
        stopped.append(await core.run(service(run, serves=(Greeter,))))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host)
            await core.until("ready")
            assert core.router.bound() == {"greet": ("greeter",)}
            assert await core.calls(Greeter).greet(name="you") == "hello you"
            assert await core.host().ping() is True
            assert (await core.host().stats())["published"] == 0
            assert await core.host().snapshot()
            await core.host().stop()
    assert stopped == [True]


async def test_a_service_that_returns_is_finished_not_stopped(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()

    with anyio.fail_after(10):
        assert await core.run(service(run)) is False


async def test_a_wrong_token_is_refused(core: Core) -> None:
    core.entrance.expect("other")
    token, _ = core.entrance.expect("greet")
    core.entrance.tokens["greet"] = "x" * len(token)
    place = core.place(token)
    with pytest.raises(BaseExceptionGroup) as caught:
        await run_host(service(sleeps), NoConfig(), place)
    error = innermost(caught.value)
    assert isinstance(error, CallError)
    assert error.kind is CallErrorKind.DENIED


async def test_an_interface_that_is_not_declared_cannot_be_served(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        await ctx.serve(Undeclared, object())

    error = await raised_by(core, run, serves=(Greeter,))
    assert isinstance(error, LocalMessageError)
    assert "does not declare 'secret-door'; it declares: greeter" in str(error)


async def test_degraded_and_recovered_reach_the_core_in_order(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        ctx.degraded("the cloud is away", remedy="wait")
        ctx.recovered()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(core.run, service(run))
        await core.until("recovered")
        assert core.said == [("ready",), ("degraded", "the cloud is away", "wait"), ("recovered",)]
        await core.host().stop()


async def test_what_a_service_raises_is_the_hosts_error_with_its_line(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        async with anyio.create_task_group():
            raise DeviceError("no sensor", remedy="plug it in")

    error = await raised_by(core, run)
    assert isinstance(error, DeviceError)
    end = end_of(error, home=Path(__file__))
    assert (end.kind, end.reason, end.remedy) == (EndKind.MISSING, "no sensor", "plug it in")
    assert end.file == __file__


async def test_a_service_that_ends_without_having_started_fails(core: Core) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        return

    assert "started" in str(await raised_by(core, run))


async def test_a_durable_event_is_on_disk_before_it_is_on_the_bus(core: Core, runtime: Path) -> None:
    outbox = open_outbox(runtime / "state" / "outbox", node_id="0" * 32, service="greet")

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        await ctx.bus.publish(Kept(n=7))
        await anyio.sleep_forever()

    async with listener(runtime) as bus, bus.subscribe(Kept) as events, anyio.create_task_group() as tasks:
        tasks.start_soon(core.run, service(run, publishes=(Kept,)))
        with anyio.fail_after(10):
            assert (await anext(events)).event == Kept(n=7)
            async with outbox.reader("greet", "events", name="test") as reader:
                (stored,) = await reader.read(max_records=9, max_bytes=9999)
            assert (stored.seq, stored.record.topic) == (1, "test.kept")
            await core.host().stop()


async def test_a_durable_event_that_cannot_be_stored_is_not_published(core: Core, runtime: Path) -> None:
    (runtime / "state").mkdir()
    (runtime / "state" / "outbox").write_text("a file where a folder must be")

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        await ctx.bus.publish(Kept(n=1))

    async with listener(runtime) as bus, bus.subscribe(Kept) as events:
        error = await raised_by(core, run, publishes=(Kept,))
        assert isinstance(error, StorageError | OSError)
        assert events.stats()["received"] == 0


async def test_stop_in_the_middle_of_durable_publishing_loses_nothing_that_was_acknowledged(
    core: Core, runtime: Path
) -> None:
    acknowledged: list[int] = []
    enough = anyio.Event()

    async def publish(ctx: Any, lane: int) -> None:
        for n in range(lane, 10**6, 4):
            await ctx.bus.publish(Kept(n=n))
            acknowledged.append(n)
            if len(acknowledged) > 20:
                enough.set()

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        async with anyio.create_task_group() as lanes:
            for lane in range(4):
                lanes.start_soon(publish, ctx, lane)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(core.run, service(run, publishes=(Kept,)))
            await enough.wait()
            await core.host().stop()
    outbox = open_outbox(runtime / "state" / "outbox", node_id="0" * 32, service="greet")
    async with outbox.reader("greet", "events", name="test") as reader:
        assert len(await reader.read(max_records=100_000, max_bytes=1 << 30)) >= len(acknowledged)


async def test_handlers_end_before_what_they_use_is_closed(core: Core, runtime: Path) -> None:
    calling = anyio.Event()
    ends: list[BaseException] = []

    class Busy:
        def __init__(self, ctx: Any) -> None:
            self.ctx = ctx

        async def greet(self, *, name: str) -> str:
            try:
                while True:
                    await self.ctx.bus.publish(Kept(n=1))
                    calling.set()
            except BaseException as error:
                ends.append(error)
                raise

    async def run(ctx: Any, *, task_status: Any) -> None:
        await ctx.serve(Greeter, Busy(ctx))
        task_status.started()
        await anyio.sleep_forever()

    async def call() -> None:
        with pytest.raises(CallError):
            await core.calls(Greeter).greet(name="you")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(core.run, service(run, serves=(Greeter,), publishes=(Kept,)))
            await core.until("ready")
            tasks.start_soon(call)
            await calling.wait()
            await core.host().stop()
    assert [type(error).__name__ for error in ends] == ["CancelledError"]


async def test_a_host_that_has_lost_the_core_ends_its_service_and_itself(core: Core) -> None:
    cleaned: list[str] = []

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append("up")

    async def cut() -> None:
        await core.until("ready")
        peer = core.router._services["greet"]
        peer.endpoint._channel.transport.abort()  # type: ignore[attr-defined]

    core.tasks.start_soon(cut)
    error = await raised_by(core, run)
    assert isinstance(error, CallError)
    assert "lost" in error.message
    assert cleaned == ["up"]


async def test_the_stack_shows_where_the_service_waits_in_its_own_helpers(core: Core) -> None:
    async def deep() -> None:
        await anyio.sleep_forever()

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        await deep()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(core.run, service(run))
        await core.until("ready")
        lines = (await core.host().stack()).splitlines()
        own = [line for line in lines if line.startswith(__file__)]
        assert [line.rpartition(" ")[2] for line in own] == ["run", "deep"]
        await core.host().stop()


def test_the_stack_of_nothing_is_empty() -> None:
    assert suspended_at(None) == []


async def test_state_dir_is_made_once_and_is_the_services_own(core: Core, runtime: Path) -> None:
    found: list[Path] = []

    async def run(ctx: Any, *, task_status: Any) -> None:
        task_status.started()
        found.extend([ctx.state_dir, ctx.state_dir])

    await core.run(service(run))
    assert found == [runtime / "state" / "plugins" / "greet"] * 2
    assert found[0].is_dir()
