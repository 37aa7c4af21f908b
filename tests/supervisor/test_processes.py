"""Instances: who may say hello, and services as tasks of the core."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import EnergyClass, Isolation, State
from sparkd.config import PluginTable
from sparkd.host import Place
from sparkd.registry import PluginSource, SourceKind
from sparkd.service import Manifest, NoConfig, Service
from sparkd.supervisor import End, EndKind, Plan, Supervised, Supervisor, processes
from sparkd.supervisor.processes import Entrance, InlineLauncher, Surroundings
from sparkd.supervisor.supervised import Wanted
from sparkd.testing import short_folder
from tests.host_rig import Core, core_in

pytestmark = pytest.mark.anyio


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    with short_folder() as folder:
        async with core_in(folder) as opened:
            yield opened


def test_a_token_is_good_once_and_for_its_service_only() -> None:
    entrance = Entrance()
    token, _ = entrance.expect("a")
    assert not entrance.verify("b", token)
    assert not entrance.verify("a", "")
    assert not entrance.verify("a", "ü")
    assert entrance.verify("a", token)
    assert not entrance.verify("a", token)


def test_the_end_of_an_older_instance_does_not_forget_the_newer() -> None:
    entrance = Entrance()
    old_token, old = entrance.expect("a")
    token, new = entrance.expect("a")
    entrance.forget("a", old)
    assert not entrance.verify("a", old_token)
    assert entrance.verify("a", token)
    entrance.is_ready("a")
    assert (old.is_set(), new.is_set()) == (False, True)
    entrance.forget("a", new)
    entrance.is_ready("a")
    assert (entrance.tokens, entrance.ready) == ({}, {})


def plan() -> Plan:
    return Plan(
        manifest=Manifest(plugin="greet", name="greet"),
        source=PluginSource(name="greet", kind=SourceKind.ENTRY_POINT, path=str(Path(__file__))),
        table=PluginTable(),
        isolation=Isolation.INLINE,
        start_limit_s=10.0,
        energy=EnergyClass.NORMAL,
        watchdog_s=0.05,
    )


class Inline:
    """A service supervised as a task, and the states it went through."""

    def __init__(self, core: Core, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
        self.gone: list[str] = []
        self.news = anyio.Event()
        monkeypatch.setattr(
            processes, "load_service", lambda _source, name: Service(name=name, config=NoConfig, run=run)
        )
        around = Surroundings(
            place=core.place,
            entrance=core.entrance,
            reach=lambda _service: core.host(),
            gone=self.gone.append,
            on_line=lambda _service, _line: None,
        )
        launcher = InlineLauncher(around)
        self.service = Supervised(plan=plan(), launcher=lambda _: launcher, on_change=self._note)

    def _note(self, service: Supervised) -> None:
        self.news.set()
        self.news = anyio.Event()

    async def until(self, state: State) -> End:
        with anyio.fail_after(10):
            while self.service.state is not state:
                await self.news.wait()
        return self.service.end


async def sleeps(ctx: Any, *, task_status: Any) -> None:
    task_status.started()
    await anyio.sleep_forever()


async def test_an_inline_service_is_stopped_and_started_and_its_watcher_survives(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = Inline(core, monkeypatch, sleeps)
    async with Supervisor().open() as supervisor:
        supervisor.add(inline.service)
        await inline.until(State.RUNNING)
        inline.service.want(Wanted.STOP)
        await inline.until(State.STOPPED)
        assert inline.gone == ["greet"]
        inline.service.want(Wanted.RUN)
        await inline.until(State.RUNNING)
        with anyio.fail_after(5):
            await inline.service.restart()
        await inline.until(State.RUNNING)
    assert inline.service.state is State.STOPPED
    assert core.entrance.tokens == {}


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), BaseExceptionGroup("g", [SystemExit(3)]), ExceptionGroup("g", [OSError()])],
)
async def test_whatever_an_inline_service_raises_is_its_end(
    core: Core, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        raise error

    inline = Inline(core, monkeypatch, run)
    async with Supervisor().open() as supervisor:
        supervisor.add(inline.service)
        assert (await inline.until(State.BACKOFF)).kind is EndKind.FAILED


async def test_an_inline_service_that_never_starts_is_ended_at_its_limit(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(ctx: Any, *, task_status: Any) -> None:
        await anyio.sleep_forever()

    inline = Inline(core, monkeypatch, run)
    object.__setattr__(inline.service.plan, "start_limit_s", 0.05)
    async with Supervisor().open() as supervisor:
        supervisor.add(inline.service)
        assert "did not call started()" in (await inline.until(State.BACKOFF)).reason


async def test_an_inline_service_that_lost_its_connection_is_started_again(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = Inline(core, monkeypatch, sleeps)
    async with Supervisor().open() as supervisor:
        supervisor.add(inline.service)
        await inline.until(State.RUNNING)
        core.router._services["greet"].endpoint._channel.transport.abort()  # type: ignore[attr-defined]
        end = await inline.until(State.WAITING)
        assert "lost" in end.reason


def test_a_place_is_plain() -> None:
    assert Place(node="n", node_id="0", site="s", runtime="r", state="s", token="t").limits().max_bytes == 1 << 30
