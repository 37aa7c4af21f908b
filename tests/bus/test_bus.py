"""Events through a real broker, on real sockets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd import Durability, LocalMessageError, NodeHealth, Policy, Privacy, Record, SensorReading, event
from sparkd.bus import Broker, BusClient, Retained, Subscription
from sparkd.codec import MAX_EVENT_BYTES
from sparkd.testing import short_folder

pytestmark = pytest.mark.anyio


@event("test.count")
@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    n: int
    filling: str = ""


@event("test.keep", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    n: int


def client(runtime: Path, service: str = "s", **options: Any) -> AbstractAsyncContextManager[BusClient]:
    return BusClient(runtime, node="n", service=service, **options).open()


async def take(subscription: Subscription[Any], count: int) -> list[Any]:
    with anyio.fail_after(10):
        return [await anext(subscription) for _ in range(count)]


async def test_an_event_arrives_with_its_header(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        await bus.publish(Count(n=7), privacy=Privacy.NODE, trace=b"t" * 16)
        (received,) = await take(counts, 1)

    header = received.header
    assert (received.topic, received.event) == ("test.count", Count(n=7))
    assert (header.node, header.service, header.seq, header.privacy, header.trace) == (
        "n",
        "s",
        1,
        Privacy.NODE,
        b"t" * 16,
    )


async def test_a_subscription_is_in_force_when_it_is_entered(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus:
        for n in range(50):
            async with bus.subscribe(Count) as counts:
                await bus.publish(Count(n=n))
                assert [r.event.n for r in await take(counts, 1)] == [n]


async def test_plain_pyzmq_and_msgpack_read_the_bus(runtime: Path, broker: Broker) -> None:
    """Nothing of sparkd is imported by the reader; it is a process of its own."""
    program = """
import sys, msgpack, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
socket.subscribe(b"sparkd.probe.reader")
socket.subscribe(b"test.count")
assert socket.recv_multipart()[0] == b"sparkd.probe.reader"
print("ready", flush=True)
topic, header, body = socket.recv_multipart()
print(topic.decode(), msgpack.unpackb(header)[1:4], msgpack.unpackb(body), flush=True)
"""
    # The subscription to the probe topic comes last on the wire here too, so "ready" means both are in force.
    program = program.replace(
        'socket.subscribe(b"sparkd.probe.reader")\nsocket.subscribe(b"test.count")',
        """
socket.subscribe(b"test.count")
socket.subscribe(b"sparkd.probe.reader")""",
    )
    async with client(runtime) as bus:
        process = await anyio.open_process([sys.executable, "-c", program, f"ipc://{runtime / 'bus.sub'}"])
        assert process.stdout is not None
        with anyio.fail_after(20):
            assert await process.stdout.receive() == b"ready\n"
            await bus.publish(Count(n=3))
            line = await process.stdout.receive()
            await process.wait()
        await process.aclose()
    assert line == b"test.count ['n', 's', 1] {'n': 3, 'filling': ''}\n"


async def test_segments_are_matched_whole(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe_topic("test.co") as near, bus.subscribe_topic("test") as all_of_it:
        await bus.publish(Count(n=1))
        await bus.publish(Count(n=2), topic="test.count.deep")

        assert [r.topic for r in await take(all_of_it, 2)] == ["test.count", "test.count.deep"]
        assert near.received == 0


async def test_latest_keeps_the_newest_of_each_topic_and_counts_the_rest(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe(Count) as every, bus.subscribe(Count, policy=Policy.LATEST) as new:
        for n in range(100):
            await bus.publish(Count(n=n))
        await take(every, 100)
        with anyio.fail_after(5):
            while new.received < 100:
                await anyio.lowlevel.checkpoint()

        assert [r.event.n for r in await take(new, 1)] == [99]
        assert (new.dropped, new.lost) == (99, 0)


async def test_drop_oldest_drops_the_oldest_and_all_says_that_it_cannot(runtime: Path, broker: Broker) -> None:
    async with (
        client(runtime) as bus,
        bus.subscribe(Count, limit=1000) as every,
        bus.subscribe(Count, limit=10) as short,
        bus.subscribe(Count, limit=10, policy=Policy.ALL) as strict,
    ):
        for n in range(30):
            await bus.publish(Count(n=n))
        await take(every, 30)
        with anyio.fail_after(5):
            while short.received < 30 or strict.received < 30:
                await anyio.lowlevel.checkpoint()

        assert [r.event.n for r in await take(short, 10)] == list(range(20, 30))
        assert (short.dropped, short.lost) == (20, 0)
        await take(strict, 10)
        with pytest.raises(BufferError, match="more than 10 events"):
            await anext(strict)


async def test_events_lost_on_the_way_are_counted_exactly(runtime: Path, broker: Broker) -> None:
    """A publisher that skips numbers is what loss looks like from here; the tail is told by the next announcement."""
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        await bus.publish(Count(n=0))
        bus._publisher._last["test.count"] += 5
        await bus.publish(Count(n=1))
        await take(counts, 2)
        assert counts.lost == 5

        bus._publisher._last["test.count"] += 3
        with anyio.fail_after(5):
            while counts.lost < 8:
                await anyio.lowlevel.checkpoint()
        assert counts.lost == 8


async def test_a_stalled_reader_costs_a_healthy_one_nothing(runtime: Path, broker: Broker) -> None:
    stalled = zmq.Context()
    socket = stalled.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{runtime / 'bus.sub'}")
    socket.subscribe(b"")
    try:
        async with client(runtime) as bus, bus.subscribe(Count, limit=100_000) as counts:
            for start in range(0, 20_000, 500):
                for n in range(start, start + 500):
                    await bus.publish(Count(n=n, filling="x" * 300))
                await take(counts, 500)
            assert (counts.lost, counts.dropped) == (0, 0)
    finally:
        socket.close()
        stalled.term()


async def test_rights_are_checked_on_both_sides(runtime: Path, broker: Broker) -> None:
    async with client(runtime, publishes=("test.count",), reads=("test.count",)) as bus:
        await bus.publish(Count(n=1))
        with pytest.raises(LocalMessageError, match=r"may not publish 'edge.sensors'.*has: test.count"):
            await bus.publish(SensorReading(sensor="s", quantity="q", value=1, unit="u"))
        with pytest.raises(LocalMessageError, match=r"may not read 'system.health'"):
            async with bus.subscribe(NodeHealth):
                pass


async def test_a_durable_event_is_stored_before_it_is_sent(runtime: Path, broker: Broker) -> None:
    stored: list[Record] = []

    async def store(record: Record) -> int:
        assert keeps.received == 0
        stored.append(record)
        return len(stored)

    async with client(runtime, store=store) as bus, bus.subscribe(Keep) as keeps:
        await bus.publish(Keep(n=1), key="k")
        await take(keeps, 1)

    assert [(r.topic, r.key, msgpack.unpackb(r.body)) for r in stored] == [("test.keep", "k", {"n": 1})]


async def test_a_durable_event_that_cannot_be_stored_is_not_sent(runtime: Path, broker: Broker) -> None:
    async def store(record: Record) -> int:
        raise OSError("disk full")

    async with client(runtime, store=store) as bus, bus.subscribe_topic("test") as everything:
        with pytest.raises(OSError, match="disk full"):
            await bus.publish(Keep(n=1))
        await bus.publish(Count(n=2))
        assert [r.topic for r in await take(everything, 1)] == ["test.count"]


async def test_too_large_an_event_is_refused_with_both_numbers(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus:
        with pytest.raises(LocalMessageError, match=f"{MAX_EVENT_BYTES} at the most"):
            await bus.publish(Count(n=1, filling="x" * MAX_EVENT_BYTES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_random_frames_harm_nobody(frames: list[bytes]) -> None:
    async def attack(runtime: Path) -> None:
        async with Broker(runtime).open(), client(runtime) as bus, bus.subscribe_topic("test") as everything:
            bus._publisher._socket.send_multipart([b"test" + frames[0], *frames[1:]])
            bus._publisher._socket.send_multipart(frames)
            await bus.publish(Count(n=1))
            with anyio.fail_after(5):
                async for received in everything:
                    if received.topic == "test.count" and received.event == {"n": 1, "filling": ""}:
                        break

    with short_folder() as runtime:
        anyio.run(attack, runtime)


async def test_a_wrong_type_under_a_known_topic_is_skipped_and_counted(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        bus._publisher.send("test.count", msgpack.packb({"n": "not a number"}), Privacy.LOCAL)
        bus._publisher.send("test.count", b"\xc1", Privacy.LOCAL)
        await bus.publish(Count(n=3))

        assert [r.event.n for r in await take(counts, 1)] == [3]
        assert counts.malformed == 2


async def test_last_values_are_kept_within_bounds(runtime: Path, broker: Broker) -> None:
    kept = Retained()
    async with client(runtime) as bus, bus.subscribe_messages("test") as messages:
        for n in range(3):
            await bus.publish(Count(n=n))
            await bus.publish(Count(n=n), topic=f"test.count.t{n}")
        for received in await take(messages, 6):
            kept.keep(received.event)

    assert {m.topic: m.plain()["n"] for m in kept.at("test.count")} == {
        "test.count": 2,
        "test.count.t0": 0,
        "test.count.t1": 1,
        "test.count.t2": 2,
    }
    assert [m.topic for m in kept.at("test.count.t1")] == ["test.count.t1"]


async def test_sockets_are_closed_to_others(runtime: Path, broker: Broker) -> None:
    modes = {name: stat.S_IMODE((runtime / name).stat().st_mode) for name in ("bus.pub", "bus.sub")}

    assert modes == {"bus.pub": 0o600, "bus.sub": 0o660}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_is_refused_and_counted(runtime: Path) -> None:
    refused = anyio.Event()
    broker = Broker(runtime, on_refused=lambda _domain, _address: refused.set())
    program = """
import os, sys, zmq
os.setuid(65534)
socket = zmq.Context().socket(zmq.PUB)
socket.connect(sys.argv[1])
import time; time.sleep(30)
"""
    async with broker.open():
        runtime.chmod(0o755)
        (runtime / "bus.pub").chmod(0o666)
        process = subprocess.Popen([sys.executable, "-c", program, f"ipc://{runtime / 'bus.pub'}"])
        try:
            with anyio.fail_after(10):
                await refused.wait()
        finally:
            process.kill()
            process.wait()
    assert broker.peers.refused >= 1


async def test_no_broker_is_an_error_that_says_where(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.bus.publisher.CONNECT_LIMIT_S", 0.05)
    with pytest.raises(OSError, match=r"bus\.pub: no broker answers"):
        async with client(runtime):
            pass


async def test_a_second_broker_takes_over_the_sockets_of_a_dead_one(runtime: Path) -> None:
    (runtime / "bus.pub").write_text("left by a crash")
    async with Broker(runtime).open(), client(runtime) as bus, bus.subscribe(Count) as counts:
        await bus.publish(Count(n=1))
        await take(counts, 1)
