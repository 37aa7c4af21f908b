"""The receiving node: who may bring what, each record once, and commands sent the other way."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import (
    BatchReceipt,
    BatchRecord,
    CallError,
    CallErrorKind,
    CommandResult,
    Commands,
    Ingest,
    Ingested,
    Privacy,
    StorageError,
    decode_body,
    encode_body,
)
from sparkd.testing.wires import Fault, WiredContext
from tests.plugins.delivery import EDGE_ID, System, arm, reading

pytestmark = pytest.mark.anyio


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return arm(System(tmp_path), monkeypatch)


def batch(*seqs: int, privacy: Privacy = Privacy.SHARED, topic: str = "edge.sensors") -> list[BatchRecord]:
    body = reading(1).body
    return [
        BatchRecord(seq=seq, topic=topic, body=body, privacy=privacy, wall_ns=1, mono_ns=1, trace=b"t" * 16)
        for seq in seqs
    ]


class Sender:
    """A node that brings batches of one stream."""

    def __init__(self, system: System, node: str = "edge") -> None:
        ctx: WiredContext[None] = WiredContext(
            system.wires, node, "cloud-uplink", None, system.outbox("edge", "x"), Path("unused")
        )
        self.ingest = ctx.call(Ingest, node="cloud")

    async def append(self, records: list[BatchRecord], **more: Any) -> BatchReceipt:
        stream = {"node_id": EDGE_ID, "service": "s", "stream": "events", "epoch": 7}
        return await self.ingest.append(**{**stream, "records": records, **more})

    async def position(self) -> int:
        return await self.ingest.position(node_id=EDGE_ID, service="s", stream="events", epoch=7)


async def kept(system: System) -> list[Ingested]:
    async with system.outbox("cloud", "edge-ingest").reader("edge-ingest", "ingest", name="test") as reader:
        return [decode_body(Ingested, s.record.body) for s in await reader.read(max_records=1000, max_bytes=1 << 30)]


async def test_a_record_keeps_its_identity_class_and_trace(system: System) -> None:
    async with system.running("edge-ingest"):
        receipt = await Sender(system).append(batch(3))

        (record,) = await kept(system)
        assert receipt == BatchReceipt(stored=1, through_seq=3, refused={})
        assert (record.node, record.node_id, record.service, record.stream) == ("edge", EDGE_ID, "s", "events")
        assert (record.epoch, record.seq, record.privacy, record.trace) == (7, 3, Privacy.SHARED, b"t" * 16)
        assert record.arrival_ns > 0


async def test_a_batch_that_comes_again_or_overlaps_stores_only_what_is_new(system: System) -> None:
    async with system.running("edge-ingest"):
        sender = Sender(system)

        assert (await sender.append(batch(1, 2, 3))).stored == 3
        assert (await sender.append(batch(1, 2, 3))).stored == 0
        assert await sender.append(batch(2, 3, 4)) == BatchReceipt(stored=1, through_seq=4, refused={})
        assert [record.seq for record in await kept(system)] == [1, 2, 3, 4]


async def test_fresh_records_may_overtake_and_history_leaps_over_them(system: System) -> None:
    async with system.running("edge-ingest"):
        sender = Sender(system)

        await sender.append(batch(1, 2), after_seq=0, through_seq=2)
        assert (await sender.append(batch(11, 12), after_seq=10, through_seq=12, floor_seq=2)).through_seq == 12
        assert await sender.position() == 2
        receipt = await sender.append(batch(3, 9), after_seq=2, through_seq=10, floor_seq=2)

        assert receipt == BatchReceipt(stored=2, through_seq=12, refused={})
        assert await sender.position() == 12
        assert [record.seq for record in await kept(system)] == [1, 2, 11, 12, 3, 9]


async def test_what_is_known_survives_a_restart(system: System) -> None:
    async with system.running("edge-ingest"):
        await Sender(system).append(batch(1, 2))
    async with system.running("edge-ingest"):
        assert (await Sender(system).append(batch(1, 2, 3))).stored == 1
        assert await Sender(system).position() == 3


async def test_two_uplinks_of_one_stream_at_once_store_nothing_twice(system: System) -> None:
    async with system.running("edge-ingest"):
        system.wires.faults.extend([Fault.LATE, Fault.TWICE, Fault.CUT, Fault.TWICE])
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(append_ignoring_errors, Sender(system), batch(*range(1, 50)))
        await Sender(system).append(batch(1))
        assert [record.seq for record in await kept(system)] == list(range(1, 50))


async def test_a_caller_that_gives_up_while_its_batch_waits_to_be_stored_does_not_have_it_stored_twice(
    system: System,
) -> None:
    async with system.running("edge-ingest"), anyio.create_task_group() as tasks:
        desk: Any = system.wires.handlers["cloud", "ingest"]
        async with desk._writer._committing:  # another node's batch is being stored
            first = anyio.CancelScope()
            tasks.start_soon(append_within, first, Sender(system), batch(1))
            await anyio.wait_all_tasks_blocked()
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(append_ignoring_errors, Sender(system), batch(1))
            await anyio.wait_all_tasks_blocked()
        await Sender(system).append(batch(2))
        assert [record.seq for record in await kept(system)] == [1, 2]


async def append_within(scope: anyio.CancelScope, sender: Sender, records: list[BatchRecord]) -> None:
    with scope:
        await sender.append(records)


async def append_ignoring_errors(sender: Sender, records: list[BatchRecord]) -> None:
    try:
        await sender.append(records)
    except CallError:
        return


@pytest.mark.parametrize(
    ("same_site_nodes", "privacy", "taken"),
    [
        ((), Privacy.NODE, False),
        (("edge",), Privacy.NODE, False),
        ((), Privacy.LOCAL, False),
        (("edge",), Privacy.LOCAL, True),
        ((), Privacy.SHARED, True),
    ],
)
async def test_the_receiver_refuses_what_may_not_come(
    system: System, same_site_nodes: tuple[str, ...], privacy: Privacy, *, taken: bool
) -> None:
    system.ingest["same_site_nodes"] = same_site_nodes
    async with system.running("edge-ingest"):
        receipt = await Sender(system).append(batch(1, privacy=privacy))

        assert receipt.stored == taken
        assert receipt.through_seq == 1
        assert ("privacy" in receipt.refused.get(1, "")) is not taken
        # The answer may have been lost: asked again, it is refused again, not taken for stored.
        assert (await Sender(system).append(batch(1, privacy=privacy))).refused == receipt.refused


@pytest.mark.parametrize("topic", ["sparkd.ingested", "Not A Topic", "", "edge.telemetry"])
async def test_topics_that_are_not_taken_are_refused(system: System, topic: str) -> None:
    system.ingest["topics"] = ("edge.sensors",)
    async with system.running("edge-ingest"):
        receipt = await Sender(system).append([*batch(1, topic=topic), *batch(2)])

        assert (receipt.stored, receipt.through_seq, list(receipt.refused)) == (1, 2, [1])


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("node_id", {"node_id": "nobody"}),
        ("service", {"service": "../up"}),
        ("stream", {"stream": ""}),
        ("epoch", {"epoch": -1}),
        ("records", {"records": batch(2, 1)}),
        ("records", {"records": batch(1, 1)}),
        ("records", {"records": batch(5), "after_seq": 5, "through_seq": 9}),
        ("records", {"records": batch(5), "after_seq": 1, "through_seq": 4}),
        ("after_seq", {"records": [], "after_seq": 9, "through_seq": 4}),
        ("after_seq", {"records": batch(0)}),
        ("floor_seq", {"floor_seq": -1}),
    ],
)
async def test_a_batch_that_contradicts_itself_names_the_field(
    system: System, field: str, changes: dict[str, Any]
) -> None:
    async with system.running("edge-ingest"):
        with pytest.raises(CallError) as wrong:
            await Sender(system).append(**{"records": batch(1), **changes})

        assert (wrong.value.kind, wrong.value.data["field"]) == (CallErrorKind.INVALID_PARAMS, field)
        assert await kept(system) == []


async def test_only_nodes_on_the_list_and_only_under_their_own_id(system: System) -> None:
    system.ingest["nodes"] = ("edge", "garage")
    async with system.running("edge-ingest"):
        await Sender(system).append(batch(1))

        for node in ("stranger", "garage"):  # not on the list; on it, but with the node_id of another
            for call in (Sender(system, node).append(batch(2)), Sender(system, node).position()):
                with pytest.raises(CallError) as denied:
                    await call
                assert denied.value.kind is CallErrorKind.DENIED
                assert denied.value.data["rule"]


async def test_a_full_disk_is_unavailable_and_stores_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    async with system.running("edge-ingest"):
        desk: Any = system.wires.handlers["cloud", "ingest"]
        append = desk._writer.append

        async def refuse(*_: object, **__: object) -> list[int]:
            raise StorageError("no space left")

        monkeypatch.setattr(desk._writer, "append", refuse)
        with pytest.raises(CallError) as full:
            await Sender(system).append(batch(1))
        monkeypatch.setattr(desk._writer, "append", append)
        receipt = await Sender(system).append(batch(1))

    assert (full.value.kind, receipt.stored) == (CallErrorKind.UNAVAILABLE, 1)
    assert full.value.data["remedy"]
    assert [state.partition(":")[0] for state in system.contexts["edge-ingest"].states] == [
        "records cannot be stored",
        "recovered",
    ]


@asynccontextmanager
async def both_ways(system: System, **uplink: Any) -> AsyncIterator[Commands]:
    system.uplink.update(uplink)
    async with system.running():
        yield system.contexts["edge-ingest"].call(Commands)


async def until(system: System, commands: Commands, command_id: str, state: str) -> Any:
    with anyio.fail_after(10):
        while (status := await commands.status(command_id=command_id)).state != state:
            await anyio.lowlevel.checkpoint()
    return status


async def test_a_command_goes_down_and_its_result_comes_up(system: System) -> None:
    calls = []

    async def set_lamp(params: Any) -> Any:
        calls.append(params)
        return {"lit": params["on"]}

    system.wires.answers["lamp.set"] = set_lamp
    system.wires.faults.extend([Fault.LOST, Fault.DROPPED, Fault.TWICE])
    async with both_ways(system, commands_allow=("lamp.*",)) as commands:
        command_id = await commands.send(target="edge", method="lamp.set", params={"on": True})
        status = await until(system, commands, command_id, "done")
        await system.stored(1)

    assert (status.target, status.method, status.result) == ("edge", "lamp.set", {"lit": True})
    assert calls == [{"on": True}]
    assert system.rows("command_results", "command_id, ok") == [(command_id, 1)]


async def test_a_denied_command_has_failed(system: System) -> None:
    async with both_ways(system) as commands:
        command_id = await commands.send(target="edge", method="lamp.set")

        status = await until(system, commands, command_id, "failed")

    assert "denied" in status.error


async def test_a_command_that_cannot_be_delivered_expires(system: System) -> None:
    async with system.running("edge-ingest"):
        commands = system.contexts["edge-ingest"].call(Commands)
        command_id = await commands.send(target="edge", method="lamp.set", expires_s=0.05)

        status = await until(system, commands, command_id, "expired")

    assert status.result is None


async def test_a_command_waits_through_a_restart(system: System) -> None:
    async def answer(_: Any) -> int:
        return 5

    system.wires.answers["lamp.get"] = answer
    async with system.running("edge-ingest"):
        commands = system.contexts["edge-ingest"].call(Commands)
        command_id = await commands.send(target="edge", method="lamp.get")
        assert (await commands.status(command_id=command_id)).state == "pending"
    async with both_ways(system, commands_allow=("lamp.get",)) as commands:
        assert (await until(system, commands, command_id, "done")).result == 5


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Put the cloud node on a disk of 3 MB; gives what fills it and returns the file that is in the way."""
    disk = tmp_path / "cloud"
    disk.mkdir()
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")

    def fill() -> Path:
        stuff = disk / "stuff"
        with suppress(OSError), stuff.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        return stuff

    try:
        yield fill
    finally:
        subprocess.run(["/bin/umount", "-l", disk], check=True)


async def test_a_command_that_a_full_disk_refuses_is_never_run_and_what_it_took_is(
    full: Callable[[], Path], system: System
) -> None:
    calls, taken = [], {}

    async def note(params: Any) -> None:
        calls.append(params["number"])

    system.wires.answers["lamp.set"] = note
    async with system.running("edge-ingest"):
        commands = system.contexts["edge-ingest"].call(Commands)
        stuff = full()
        refused: list[CallError] = []
        for number in range(500):  # what is open already may still have room for some
            try:
                sent = await commands.send(target="edge", method="lamp.set", params={"number": number})
                taken[number] = sent
            except CallError as error:
                refused.append(error)
                if len(refused) == 20:
                    break
        stuff.unlink()
        taken[1000] = await commands.send(target="edge", method="lamp.set", params={"number": 1000})
    async with both_ways(system, commands_allow=("lamp.*",)) as commands:
        for command_id in taken.values():
            await until(system, commands, command_id, "done")

    assert {error.kind for error in refused} == {CallErrorKind.UNAVAILABLE}
    assert refused[0].data["remedy"]
    assert sorted(calls) == sorted(taken)


async def test_commands_under_way_wait_for_room_on_a_full_disk_and_run_once(
    full: Callable[[], Path], system: System
) -> None:
    calls = []

    async def note(params: Any) -> str:
        calls.append(params)
        return "noted"

    system.wires.answers["lamp.set"] = note
    system.uplink["commands_allow"] = ("lamp.*",)
    async with system.running("edge-ingest"):
        ctx = system.contexts["edge-ingest"]
        command_id = await ctx.call(Commands).send(target="edge", method="lamp.set")
        stuff = full()
        async with system.running("stream-sink", "cloud-uplink"):
            with anyio.fail_after(10):
                while not any("commands wait for room on the disk" in line for line in ctx.log.lines):
                    full()  # and what the outbox gives up of its reserve
                    await anyio.lowlevel.checkpoint()
            stuff.unlink()
            status = await until(system, ctx.call(Commands), command_id, "done")

    assert status.result == "noted"
    assert len(calls) == 1


async def test_who_may_not_send_and_what_cannot_be_sent(system: System) -> None:
    system.ingest["nodes"] = ("edge",)
    async with system.running("edge-ingest"):
        ctx = system.contexts["edge-ingest"]
        with pytest.raises(CallError, match="denied"):
            await replace(ctx, node="edge").call(Commands, node="cloud").send(target="edge", method="a.b")
        for field, target, expires_s in (("target", "nobody", 9.0), ("expires_s", "edge", 0.0)):
            with pytest.raises(CallError) as wrong:
                await ctx.call(Commands).send(method="a.b", target=target, expires_s=expires_s)
            assert wrong.value.data["field"] == field
        with pytest.raises(CallError, match="no command"):
            await ctx.call(Commands).status(command_id="x")


async def test_a_node_cannot_answer_for_another(system: System) -> None:
    async with system.running("edge-ingest"):
        commands = system.contexts["edge-ingest"].call(Commands)
        command_id = await commands.send(target="edge", method="a.b")
        result = CommandResult(command_id=command_id, ok=True, result="forged")
        forged = replace(batch(1)[0], topic="cloud.commands.result", body=encode_body(result))

        await Sender(system, "garage").append([forged])
        assert (await commands.status(command_id=command_id)).state == "pending"
