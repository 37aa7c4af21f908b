"""Plugins kept in line with what is there and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from sparkd import Isolation, State
from sparkd.config import Config, NodeConfig, PluginTable
from sparkd.daemon.plugins import Plugins
from sparkd.registry import PluginSource, ProbeResult, SourceKind
from sparkd.service import Manifest
from sparkd.supervisor import Plan, Supervised, Supervisor
from sparkd.supervisor.supervised import Wanted
from tests.supervisor.script import Script, Scripted

pytestmark = pytest.mark.anyio


class Shelf:
    """A registry of what the test puts on it."""

    def __init__(self, *sources: PluginSource) -> None:
        self.sources = list(sources)
        self.reading = anyio.Event()
        self.may_read: anyio.Event | None = None
        self.fails: Exception | None = None

    @property
    def present(self) -> dict[str, PluginSource]:
        return {source.name: source for source in self.sources}

    async def read(self, wanted: Callable[[PluginSource], bool]) -> tuple[ProbeResult, ...]:
        self.reading.set()
        if self.may_read is not None:
            await self.may_read.wait()
        if self.fails is not None:
            raise self.fails
        return tuple(
            ProbeResult(source=source, manifests=(Manifest(plugin=source.name, name=source.name),))
            for source in self.sources
            if wanted(source)
        )

    def __getattr__(self, name: str) -> Any:
        return ()


def drop_in(name: str, digest: str = "1") -> PluginSource:
    return PluginSource(name=name, kind=SourceKind.DROP_IN, path=f"/plugins/{name}.py", hash=digest)


def installed(name: str) -> PluginSource:
    return PluginSource(name=name, kind=SourceKind.ENTRY_POINT, path=f"/site/{name}.py", hash="1")


def plugins(shelf: Shelf, supervisor: Supervisor, config: Config | None = None) -> Plugins:
    def supervise(plan: Plan) -> Supervised:
        script = Script(*[Scripted() for _ in range(9)])
        return Supervised(plan=plan, launcher=lambda _: script)

    return Plugins(config=config or Config(), registry=shelf, supervisor=supervisor, supervise=supervise)  # type: ignore[arg-type] # as much of a registry as is asked


async def test_added_changed_removed_and_left_alone() -> None:
    shelf = Shelf(drop_in("a"), drop_in("b"), installed("c"))
    async with Supervisor().open() as supervisor:
        held = plugins(shelf, supervisor)
        assert await held.sync() == {"added": ["a", "b"], "changed": [], "removed": []}
        await supervisor.attempted()
        same, before = supervisor.services["a"], supervisor.services["b"].since

        shelf.sources = [drop_in("a"), drop_in("b", "2"), drop_in("d")]
        assert await held.sync() == {"added": ["d"], "changed": ["b"], "removed": []}
        with anyio.fail_after(5):
            while supervisor.services["b"].state is not State.RUNNING:
                await anyio.lowlevel.checkpoint()
        assert supervisor.services["b"].since > before
        assert supervisor.services["a"] is same

        shelf.sources = [drop_in("a")]
        assert await held.sync() == {"added": [], "changed": [], "removed": ["b", "d"]}
        assert [manifest.name for manifest in held.manifests] == ["a"]


async def test_the_config_says_what_runs_in_which_order_and_how() -> None:
    config = Config(
        node=NodeConfig(name="n", inline=["c"]),
        plugins={"c": PluginTable(), "a": PluginTable(isolation=Isolation.INLINE), "off": PluginTable(enabled=False)},
    )
    shelf = Shelf(drop_in("a"), drop_in("b"), installed("c"), drop_in("off"))
    async with Supervisor().open() as supervisor:
        held = plugins(shelf, supervisor, config)
        await held.sync()
        assert [manifest.name for manifest in held.manifests] == ["c", "a", "b"]
        isolations = {name: service.plan.isolation for name, service in supervisor.services.items()}
        assert isolations == {"a": Isolation.PROCESS, "b": Isolation.PROCESS, "c": Isolation.INLINE}


async def test_a_caller_that_gives_up_leaves_nothing_half_done() -> None:
    shelf = Shelf(drop_in("a"))
    async with Supervisor().open() as supervisor:
        held = plugins(shelf, supervisor)
        await held.sync()
        await supervisor.attempted()
        shelf.sources = [drop_in("a", "2"), drop_in("b")]
        with anyio.CancelScope() as impatient:
            held.on_synced = impatient.cancel
            stop = supervisor.services["a"].on_change

            def cut(service: Supervised) -> None:
                impatient.cancel()
                stop(service)

            supervisor.services["a"].on_change = cut
            await held.sync()
        assert supervisor.services["a"].plan.source.hash == "2"
        assert set(supervisor.services) == {"a", "b"}


async def test_two_syncs_wait_for_each_other_and_one_that_fails_changes_nothing() -> None:
    shelf = Shelf(drop_in("a"))
    async with Supervisor().open() as supervisor:
        held = plugins(shelf, supervisor)
        await held.sync()
        shelf.fails = OSError("too many files")
        with pytest.raises(OSError, match="too many files"):
            await held.sync()
        assert set(supervisor.services) == {"a"}
        shelf.fails, shelf.may_read, shelf.reading = None, anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(held.sync)
            await shelf.reading.wait()
            shelf.sources = [drop_in("z")]
            tasks.start_soon(held.sync)
            shelf.may_read.set()
        assert set(supervisor.services) == {"z"}


async def test_what_is_shed_stays_shed_when_its_code_changes() -> None:
    shelf = Shelf(drop_in("a"))
    async with Supervisor().open() as supervisor:
        held = plugins(shelf, supervisor)
        await held.sync()
        await supervisor.attempted()
        service = supervisor.services["a"]
        service.want(Wanted.SHED)
        with anyio.fail_after(5):
            while service.state is not State.SHED:
                await anyio.lowlevel.checkpoint()
        shelf.sources = [drop_in("a", "2")]
        with anyio.fail_after(5):
            await held.sync()
        assert (service.state, service.plan.source.hash) == (State.SHED, "2")
