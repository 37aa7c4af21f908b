"""Events through a real broker, on real sockets."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgpack
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd import LocalMessageError, NodeHealth, Policy, Privacy, Record, SensorReading
from sparkd.bus import Broker, BusLimits, Retained
from sparkd.codec import MAX_EVENT_BYTES, Header, encode_header
from sparkd.testing import short_folder
from tests.bus.bus_rig import Count, Keep, child, client, take, until

pytestmark = pytest.mark.anyio


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
socket.subscribe(b"test.count")
socket.subscribe(b"sparkd.probe.reader")  # last: when it is answered, both are in force
assert socket.recv_multipart()[0] == b"sparkd.probe.reader"
print("ready", flush=True)
topic, header, body = socket.recv_multipart()
print(topic.decode(), msgpack.unpackb(header)[1:4], msgpack.unpackb(body), flush=True)
"""
    async with client(runtime) as bus, child(program, f"ipc://{runtime / 'bus.sub'}") as line:
        assert await line() == "ready"
        await bus.publish(Count(n=3))
        assert await line() == "test.count ['n', 's', 1] {'n': 3, 'filling': ''}"


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
        await until(lambda: new.received == 100)

        assert [r.event.n for r in await take(new, 1)] == [99]
        assert (new.dropped, new.lost) == (99, 0)


async def test_latest_keeps_no_more_topics_than_its_bound(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe(Count, policy=Policy.LATEST, limit=3) as new:
        for n in range(10):
            await bus.publish(Count(n=n), topic=f"test.count.t{n}")
        await until(lambda: new.received == 10)

        assert [r.event.n for r in await take(new, 3)] == [7, 8, 9]
        assert new.dropped == 7


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
        await until(lambda: short.received == strict.received == 30)

        assert [r.event.n for r in await take(short, 10)] == list(range(20, 30))
        assert (short.dropped, short.lost) == (20, 0)
        assert [r.event.n for r in await take(strict, 10)] == list(range(10))
        with pytest.raises(BufferError, match="more than 10 events"):
            await anext(strict)
        await bus.publish(Count(n=30))
        assert [r.event.n for r in await take(strict, 1)] == [30]


async def test_events_lost_on_the_way_are_counted_exactly(runtime: Path, broker: Broker) -> None:
    """A publisher that skips numbers is what loss looks like from here; the tail is told by the next announcement."""
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        await bus.publish(Count(n=0))
        bus._publisher._last["test.count"] += 5
        await bus.publish(Count(n=1))
        await take(counts, 2)
        assert counts.lost == 5

        bus._publisher._last["test.count"] += 3
        await until(lambda: counts.lost >= 8)
        assert counts.lost == 8


@pytest.mark.parametrize("topic", ["", "test"])
async def test_lost_tails_are_counted_for_every_kind_of_subscription(runtime: Path, broker: Broker, topic: str) -> None:
    async with client(runtime) as bus, bus.subscribe_topic(topic) as everything:
        await bus.publish(Count(n=0))
        await take(everything, 1)
        bus._publisher._last["test.count"] += 3
        await until(lambda: everything.lost >= 3)
        assert everything.lost == 3


async def test_a_publisher_that_closes_says_what_it_sent_last(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as reader, reader.subscribe(Count) as counts:
        async with client(runtime, "brief") as brief:
            await brief.publish(Count(n=1))
            brief._publisher._last["test.count"] += 2
        await until(lambda: counts.lost >= 2)
        assert counts.lost == 2


async def test_the_last_events_of_a_process_that_exits_at_once_arrive(runtime: Path, broker: Broker) -> None:
    program = """
import os, sys, anyio
from pathlib import Path
from sparkd.bus import finish
from tests.bus.bus_rig import Count, client
async def main():
    async with client(Path(sys.argv[1]), "brief") as bus:
        for n in range(3000):
            await bus.publish(Count(n=n, filling="x" * 300))
anyio.run(main)
finish()
print("gone", flush=True)
os._exit(0)
"""
    async with client(runtime) as bus, bus.subscribe(Count, limit=10_000) as counts:
        async with child(program, str(runtime)) as line:
            assert await line() == "gone"
        await until(lambda: counts.received + counts.lost >= 3000)
        assert (counts.received, counts.lost) == (3000, 0)


async def test_a_service_of_very_many_topics_can_announce_its_tails(runtime: Path, broker: Broker) -> None:
    async with client(runtime) as bus, bus.subscribe_topic("sparkd.tails") as tails:
        bus._publisher._last.update({f"test.count.{'x' * 100}{n}": 1 for n in range(20_000)})
        bus._publisher._say_tails()
        said = await take(tails, 20)
    assert sum(len(r.event["last"]) for r in said) == 20_000


async def test_in_a_flood_every_event_came_or_is_counted(runtime: Path) -> None:
    """Queues of 50 overflow at the publisher and in the broker; not one event goes missing from the sums."""
    count = 20_000
    async with (
        Broker(runtime, high_water=50).open(),
        client(runtime, limits=BusLimits(high_water=50)) as bus,
        bus.subscribe(Count, limit=100) as counts,
    ):
        await bus.publish(Count(n=0))
        await take(counts, 1)
        for n in range(1, count):
            await bus.publish(Count(n=n, filling="x" * 300))
        await until(lambda: counts.received + counts.lost >= count)
        queued = counts.stats()["queued"]

        assert counts.received + counts.lost == count
        assert counts.lost > 0
        assert counts.received == 1 + counts.dropped + queued
        assert queued <= 100


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


@pytest.mark.parametrize("topic", ["Test", "test.", ".test", "test..x", "test x", "tést"])
async def test_a_topic_that_can_never_match_is_refused(runtime: Path, broker: Broker, topic: str) -> None:
    async with client(runtime) as bus:
        with pytest.raises(LocalMessageError, match="malformed topic"):
            async with bus.subscribe_topic(topic):
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


HEADER = encode_header(Header(1, "n", "s", 1, 0, 1, 0, Privacy.LOCAL))
BAD_FRAME = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"test.count", b"sparkd.tails", b"sparkd.probe.x", b"\x01", b"\x00", b"\x01test", HEADER]),
    st.builds(
        lambda at, byte: HEADER[:at] + byte + HEADER[at + 1 :], st.integers(0, len(HEADER)), st.binary(max_size=2)
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BAD_FRAME, min_size=1, max_size=5))
def test_random_frames_harm_nobody(frames: list[bytes]) -> None:
    async def attack(runtime: Path) -> None:
        async with Broker(runtime).open(), client(runtime) as bus, bus.subscribe_topic("test") as everything:
            socket = bus._publisher._speaker.socket
            socket.send_multipart([b"test" + frames[0], *frames[1:]])
            socket.send_multipart(frames)
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


async def test_a_queue_for_no_event_at_all_is_refused(broker: Broker, runtime: Path) -> None:
    async with client(runtime) as bus:
        with pytest.raises(LocalMessageError, match="1 at the least"):
            async with bus.subscribe(Count, limit=0):
                pass
