"""Commands at their receiving end: allowed or denied, once or never, their result a durable record."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry

from sparkd import CallError, CallErrorKind, CommandResult, StorageError
from sparkd.calls.current import answering
from sparkd.privacy import Privacy
from sparkd.service import CallInfo
from sparkd_plugins.cloud_uplink.commands import CommandDesk
from sparkd_plugins.cloud_uplink.figures import Figures
from sparkd_plugins.cloud_uplink.journal import INTERRUPTED, Journal, open_journal
from sparkd_plugins.cloud_uplink.settings import CloudUplinkConfig
from tests.plugins.delivery import System

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


class Edge:
    """An uplink's desk for commands, with a method that counts how often it is called."""

    def __init__(self, system: System, journal: Journal, *, allow: tuple[str, ...] = ("lamp.*",)) -> None:
        self.calls: list[Mapping[str, Any]] = []
        self.ctx = system.context("edge", "cloud-uplink", CloudUplinkConfig(target="cloud", commands_allow=allow))
        self.ctx.wires.answers["lamp.set"] = self.set_lamp
        self.desk = CommandDesk(self.ctx.context(), journal, Figures(CollectorRegistry()))

    async def set_lamp(self, params: Mapping[str, Any]) -> Any:
        self.calls.append(params)
        return {"lit": True}

    async def run(self, command_id: str = "c1", method: str = "lamp.set", *, sender: str = "cloud", **more: Any) -> str:
        info = CallInfo("command-runner.run", f"{sender}/edge-ingest", sender, Privacy.LOCAL, None, 10.0)
        arguments = {"params": {"on": 1}, "expires_ns": time.time_ns() + 10**12, **more}
        with answering(info):
            return await self.desk.run(command_id=command_id, method=method, **arguments)

    async def results(self, count: int) -> list[CommandResult]:
        """Work until *count* results are published; return them."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.desk.work)
            with anyio.fail_after(10):
                while len(self.ctx.bus.published) < count:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        return [event for event in self.ctx.bus.published if isinstance(event, CommandResult)]


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


async def test_a_command_runs_once_and_its_result_is_a_durable_record(system: System, tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        edge = Edge(system, journal)

        assert [await edge.run(), await edge.run()] == ["accepted", "duplicate"]
        assert await edge.results(1) == [CommandResult(command_id="c1", ok=True, result={"lit": True})]
        assert await edge.run() == "duplicate"

    assert edge.calls == [{"on": 1}]
    async with system.outbox("edge", "cloud-uplink").reader("cloud-uplink", "events", name="test") as reader:
        stored = await reader.read(max_records=10, max_bytes=1 << 20)
    assert [(s.record.topic, s.record.key) for s in stored] == [("cloud.commands.result", "c1")]


@pytest.mark.parametrize(
    ("sender", "method", "allow"),
    [
        ("stranger", "lamp.set", ("*",)),
        ("cloud", "lamp.set", ()),
        ("cloud", "door.open", ("lamp.*",)),
        ("cloud", "other/lamp.set", ("*",)),
    ],
)
async def test_what_is_not_allowed_is_denied_with_the_rule(
    system: System, tmp_path: Path, sender: str, method: str, allow: tuple[str, ...]
) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        edge = Edge(system, journal, allow=allow)

        with pytest.raises(CallError) as denied:
            await edge.run(method=method, sender=sender)

        assert denied.value.kind is CallErrorKind.DENIED
        assert denied.value.data["rule"]
        assert await journal.next_order() is None


async def test_expiry_counts_what_is_left_not_the_senders_clock(system: System, tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        edge = Edge(system, journal)

        assert await edge.run("a", expires_ns=1, remaining_s=HOUR_S) == "accepted"
        assert await edge.run("b", expires_ns=2**62, remaining_s=-1.0) == "expired"
        assert await edge.run("c", expires_ns=1) == "expired"
        assert await edge.run("d", expires_ns=0, remaining_s=None) == "accepted"
        assert [result.command_id for result in await edge.results(2)] == ["a", "d"]


async def test_a_command_that_expires_in_the_queue_is_not_run(system: System, tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        edge = Edge(system, journal)
        await edge.run(remaining_s=1e-9)

        (result,) = await edge.results(1)

    assert (result.ok, result.error, edge.calls) == (False, "expired before its turn came", [])


async def test_a_failed_call_is_a_result_too(system: System, tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        edge = Edge(system, journal)
        await edge.run(method="lamp.unknown")

        (result,) = await edge.results(1)

    assert (result.ok, result.error) == (False, "unknown-method: unknown method lamp.unknown")


async def test_a_command_interrupted_by_a_crash_has_failed_and_never_runs_again(system: System, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with open_journal(path) as journal:
        edge = Edge(system, journal)
        await edge.run("begun")
        await journal.start("begun")
        await edge.run("waiting")

    async with open_journal(path) as journal:
        edge = Edge(system, journal)
        begun, waiting = await edge.results(2)

    assert (begun.command_id, begun.ok, begun.error) == ("begun", False, INTERRUPTED)
    assert (waiting.command_id, waiting.ok) == ("waiting", True)
    assert edge.calls == [{"on": 1}]


async def test_a_result_whose_sending_was_not_noted_is_stored_once(system: System, tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with open_journal(path) as journal:
        edge = Edge(system, journal)
        await edge.run()
        await edge.results(1)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE commands SET state='done'")

    async with open_journal(path) as journal:
        await Edge(system, journal).results(1)

    async with system.outbox("edge", "cloud-uplink").reader("cloud-uplink", "events", name="test") as reader:
        assert len(await reader.read(max_records=10, max_bytes=1 << 20)) == 1


async def test_a_full_disk_is_unavailable_with_a_remedy(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> bool:
        raise StorageError("database or disk is full")

    async with open_journal(tmp_path / "j.db") as journal:
        monkeypatch.setattr(journal, "take", refuse)
        with pytest.raises(CallError) as full:
            await Edge(system, journal).run()

    assert full.value.kind is CallErrorKind.UNAVAILABLE
    assert full.value.data["remedy"]


async def test_only_old_answered_commands_are_forgotten(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "j.db") as journal:
        for command_id, expires_ns in (("old", 1), ("open", 1), ("new", 2**62)):
            await journal.take(command_id, "m.n", {}, now_ns=0, expires_ns=expires_ns)
        await journal.answered("old")
        await journal.answered("new")

        await journal.forget(now_ns=time.time_ns())

        assert [await journal.knows(name) for name in ("old", "open", "new")] == [False, True, True]


async def test_a_damaged_journal_is_moved_aside_and_a_closed_one_is_a_full_disk_to_callers(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(b"not a database, long enough to have a header " * 100)

    async with open_journal(path) as journal:
        assert await journal.take("a", "m.n", {}, now_ns=0, expires_ns=0)

    assert len(list(tmp_path.glob("j.db.damaged-*"))) == 1
    with pytest.raises(StorageError):
        await journal.knows("a")
