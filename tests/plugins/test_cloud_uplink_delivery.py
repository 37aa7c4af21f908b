"""Uplink, ingest and sink together over wires that misbehave: every record is a row exactly once."""

from __future__ import annotations

import tempfile
from collections import deque
from pathlib import Path
from types import ModuleType

import anyio
import pluggy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd import CallError, CallErrorKind, LinkChanged, Privacy, Record, hookspecs
from sparkd.interfaces import interface_name
from sparkd.testing.wires import Fault
from sparkd_plugins import cloud_uplink, edge_ingest, stream_sink
from sparkd_plugins.edge_ingest.ingest import IngestDesk
from tests.plugins.delivery import EDGE_ID, System, arm, reading

STEPS = (
    "uplink.before-send",
    "uplink.after-receipt",
    "uplink.before-advance",
    "ingest.before-append",
    "ingest.after-append",
    "sink.before-commit",
    "sink.after-commit",
)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return arm(System(tmp_path), monkeypatch)


def values(system: System, stream: str = "events") -> list[float]:
    rows = system.rows("sensor_data", "value, stream")
    return [value for value, of in rows if of == stream]


def dead_letters(system: System, service: str = "cloud-uplink") -> list[str]:
    return [str(fields["reason"]) for _, event, fields in system.contexts[service].log.lines if event == "dead letter"]


def metric(system: System, name: str, **labels: str) -> float:
    return system.contexts["cloud-uplink"].metrics.get_sample_value(name, labels) or 0.0


@pytest.mark.anyio
async def test_what_is_appended_becomes_rows_of_two_streams(system: System) -> None:
    async with system.running():
        await system.append([reading(n) for n in range(10)])
        await system.append([reading(n) for n in range(5)], stream="more")
        await system.stored(15)

    assert values(system) == [float(n) for n in range(10)]
    assert values(system, "more") == [float(n) for n in range(5)]
    assert set(system.rows("sensor_data", "node, node_id, service, topic, privacy")) == {
        ("edge", EDGE_ID, "sensor", "edge.sensors", "shared")
    }
    assert system.counts()["doubled"] == 0


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.anyio
async def test_a_crash_at_any_step_neither_loses_nor_doubles(system: System, step: str, nth: int) -> None:
    system.uplink["max_batch_records"] = 5
    system.crash_at, system.crash_left = step, nth
    await system.append([reading(n) for n in range(20)])

    async with system.running():
        await system.stored(20)
        await system.append([reading(n) for n in range(20, 30)])
        await system.stored(30)

    assert values(system) == [float(n) for n in range(30)]
    assert system.counts()["doubled"] == 0
    assert system.crashes == 1


async def deliver_through(system: System, faults: list[Fault], crash: tuple[str, int], sizes: list[int]) -> None:
    system.uplink["max_batch_records"] = 4
    system.wires.faults = deque(faults)
    system.crash_at, system.crash_left = crash
    total = 0
    async with system.running():
        for size in sizes:
            await system.append([reading(total + n) for n in range(size)], stream=f"s{size % 2}")
            total += size
        await system.stored(total)
    assert sorted(values(system, "s0") + values(system, "s1")) == [float(n) for n in range(total)]
    assert system.counts()["doubled"] == 0


@given(
    faults=st.lists(st.sampled_from(Fault), max_size=25),
    crash=st.tuples(st.sampled_from(STEPS), st.integers(1, 6)),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_order_of_mishaps_loses_or_doubles_a_record(
    monkeypatch: pytest.MonkeyPatch, faults: list[Fault], crash: tuple[str, int], sizes: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(deliver_through, arm(System(Path(folder)), monkeypatch), faults, crash, sizes)


@pytest.mark.parametrize(
    ("site", "same_site_nodes", "arrives"),
    [("", [], ["shared"]), ("edge", [], ["shared"]), ("edge", ["edge"], ["local", "shared"])],
)
@pytest.mark.anyio
async def test_one_record_of_each_class(
    system: System, site: str, same_site_nodes: list[str], arrives: list[str]
) -> None:
    system.uplink["target_site"] = site
    system.ingest["same_site_nodes"] = tuple(same_site_nodes)
    await system.append([reading(1, privacy=p) for p in (Privacy.NODE, Privacy.LOCAL, Privacy.SHARED)])

    async with system.running():
        await system.stored(len(arrives))
        await system.append([reading(2)])
        await system.stored(len(arrives) + 1)

    assert [row[0] for row in system.rows("sensor_data", "privacy")] == [*arrives, "shared"]
    left = {str(record.privacy.label) for _, call in system.wires.seen for record in call.get("records", [])}
    assert "node" not in left
    withheld = metric(system, "sparkd_uplink_withheld_total", stream="sensor/events", reason="privacy")
    assert withheld == (1 if site else 2)
    # An uplink that believes the target to be at its site is refused by it, and the record is put aside, not lost.
    assert len(dead_letters(system)) == (1 if site and not same_site_nodes else 0)


@pytest.mark.anyio
async def test_expired_oversize_and_refused_records_hold_up_nobody(system: System) -> None:
    system.uplink["max_record_bytes"] = 200
    system.ingest["topics"] = ("edge.sensors",)
    big = Record(topic="edge.sensors", body=b"\xd9\xff" + b"x" * 255, privacy=Privacy.SHARED)
    elsewhere = Record(topic="edge.telemetry", body=b"\x80", privacy=Privacy.SHARED)
    await system.append(
        [reading(1), reading(2, expires_ns=1), big, elsewhere, reading(3, expires_ns=2**62), reading(4, expires_ns=1)]
    )

    async with system.running():
        await system.stored(2)
        await system.append([reading(5)])
        await system.stored(3)

    assert values(system) == [1.0, 3.0, 5.0]
    assert sorted(reason.partition(":")[0] for reason in dead_letters(system)) == ["oversize", "topic"]
    assert metric(system, "sparkd_uplink_withheld_total", stream="sensor/events", reason="gone") >= 1


@pytest.mark.anyio
async def test_a_record_that_fails_every_batch_is_found_and_put_aside(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = reading(13).body
    take = IngestDesk.append

    async def choke(desk: IngestDesk, **batch: object) -> object:
        if any(record.body == poison for record in batch["records"]):  # type: ignore[attr-defined]
            raise CallError(CallErrorKind.FAILED, "choked")
        return await take(desk, **batch)  # type: ignore[arg-type]

    monkeypatch.setattr(IngestDesk, "append", choke)
    system.uplink["max_failures"] = 3
    await system.append([reading(n) for n in range(20)])

    async with system.running():
        await system.stored(19)

    assert values(system) == [float(n) for n in range(20) if n != 13]
    assert dead_letters(system) == ["failed 3 times: failed: choked"]


@pytest.mark.anyio
async def test_a_link_that_comes_up_ends_the_wait_at_once(system: System) -> None:
    system.uplink.update(retry_least_s=1000.0, retry_most_s=1000.0)
    system.wires.down = True
    await system.append([reading(1)])

    async with system.running():
        uplink = system.contexts["cloud-uplink"]
        while not uplink.states:
            await anyio.wait_all_tasks_blocked()
        system.wires.down = False
        await uplink.bus.publish(LinkChanged(peer="other", connected=True))
        await uplink.bus.publish(LinkChanged(peer="cloud", connected=True))
        await system.stored(1)
        while len(uplink.states) < 2:
            await anyio.wait_all_tasks_blocked()

    assert uplink.states == ["cloud: unavailable: the link is down; records are kept here (wait)", "recovered"]


@pytest.mark.anyio
async def test_a_fresh_record_overtakes_its_streams_history(system: System) -> None:
    system.uplink.update(max_batch_records=10, in_flight=2)
    await system.append([reading(n) for n in range(400)])
    fresh = reading(1000)

    async with system.running("edge-ingest", "stream-sink"):
        first = await hold_after_first_batches(system, batches=3)
        async with system.running("cloud-uplink"):
            await first.wait()
            await system.append([fresh])
            system.wires.faults.clear()
            await system.stored(401)

    batches = [call["records"] for method, call in system.wires.seen if method == "ingest.append"]
    overtook = next(index for index, batch in enumerate(batches) if any(r.body == fresh.body for r in batch))
    assert overtook < len(batches) - 10
    assert sorted(values(system)) == [*(float(n) for n in range(400)), 1000.0]
    assert system.counts()["doubled"] == 0


async def hold_after_first_batches(system: System, *, batches: int) -> anyio.Event:
    """Return an event that is set when that many batches have arrived."""
    arrived, handler = anyio.Event(), system.wires.handlers["cloud", "ingest"]
    count = 0

    class Counting:
        async def append(self, **batch: object) -> object:
            nonlocal count
            count += 1
            if count == batches:
                arrived.set()
            return await handler.append(**batch)  # type: ignore[attr-defined]

    system.wires.handlers["cloud", "ingest"] = Counting()
    return arrived


@pytest.mark.parametrize("step", ["uplink.after-receipt", "uplink.before-advance", "ingest.after-append"])
@pytest.mark.anyio
async def test_a_crash_while_fresh_records_overtake_neither_loses_nor_doubles(system: System, step: str) -> None:
    system.uplink.update(max_batch_records=5, in_flight=2)
    await system.append([reading(n) for n in range(200)])
    system.crash_at, system.crash_left = step, 12

    async with system.running():
        for n in range(200, 260):
            await system.append([reading(n)])
        await system.stored(260)

    assert values(system) == [float(n) for n in range(260)]
    assert system.counts()["doubled"] == 0
    assert system.crashes == 1


@pytest.mark.anyio
async def test_an_idle_stream_does_not_wait_for_a_busy_one(system: System) -> None:
    system.uplink.update(max_batch_records=10)
    await system.append([reading(n) for n in range(300)], stream="busy")

    async with system.running():
        await system.append([reading(7)], stream="idle")
        await system.stored(301)

    order = [call["stream"] for method, call in system.wires.seen if method == "ingest.append"]
    assert order.index("idle") < len(order) - 5


@pytest.mark.parametrize(
    ("plugin", "name", "serves"),
    [
        (cloud_uplink, "cloud-uplink", ["command-runner"]),
        (edge_ingest, "edge-ingest", ["ingest", "commands"]),
        (stream_sink, "stream-sink", ["store"]),
    ],
)
def test_each_plugin_offers_its_one_service(plugin: ModuleType, name: str, serves: list[str]) -> None:
    manager = pluggy.PluginManager("sparkd")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin)
    manager.check_pending()

    ((service,),) = manager.hook.sparkd_services()

    assert (service.name, [interface_name(served) for served in service.serves]) == (name, serves)
