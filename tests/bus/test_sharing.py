"""Long events on the bus: inline, by reference, too late, too long, and what leaves the node."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
import msgpack
import numpy as np
import pytest
import zmq

from sparkd import Array, Durability, LocalMessageError, Policy, Record, event
from sparkd.bus import Broker, BusClient, BusLimits, Retained
from sparkd.codec import Message
from sparkd.reference import is_reference
from sparkd.shm import make_root
from tests.bus.bus_rig import Count, client, take, until

pytestmark = pytest.mark.anyio

MIB = 1 << 20
LIMITS = BusLimits(shm_max_bytes=16 * MIB)


@event("test.frame")
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    n: int
    picture: Array


@event("test.state", durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    cells: Array


@event("test.record", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    samples: Array


@pytest.fixture
def root(runtime: Path) -> Path:
    return make_root(runtime)


@pytest.fixture
async def bus(broker: Broker, runtime: Path, root: Path) -> AsyncIterator[BusClient]:
    async with client(runtime, limits=LIMITS) as opened:
        yield opened


def frame(n: int, size: int = MIB) -> Frame:
    return Frame(n=n, picture=Array.of(np.full(size, n % 256, dtype=np.uint8)))


def slots(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.isdigit()]


@pytest.mark.parametrize(("size", "shared"), [(100, 0), (60_000, 0), (70_000, 1), (MIB, 1), (7 * MIB, 1)])
async def test_an_array_comes_as_it_was_sent_inline_or_shared(
    bus: BusClient, root: Path, size: int, shared: int
) -> None:
    async with bus.subscribe(Frame) as frames:
        await bus.publish(frame(3, size))
        (received,) = await take(frames, 1)

    picture = received.event.picture.view()
    assert picture.shape == (size,)
    assert (picture == 3).all()
    assert not picture.flags.writeable
    assert len(slots(root)) == shared


async def test_a_long_event_without_arrays_is_shared_too(bus: BusClient, root: Path) -> None:
    async with bus.subscribe(Count) as counts, bus.subscribe_topic("test.count") as plain:
        await bus.publish(Count(n=1, filling="x" * 200_000))
        (received,) = await take(counts, 1)
        (untyped,) = await take(plain, 1)

    assert received.event.filling == untyped.event["filling"] == "x" * 200_000
    assert len(slots(root)) == 1


async def test_a_reader_that_comes_too_late_counts_a_loss_and_finds_the_newest(bus: BusClient) -> None:
    async with bus.subscribe(Frame) as all_of_them, bus.subscribe(Frame, policy=Policy.LATEST) as latest:
        for n in range(30):
            await bus.publish(frame(n))
        await until(lambda: all_of_them.received == latest.received == 30)

        came = [(await anext(all_of_them)).event for _ in range(4)]
        newest = (await anext(latest)).event

    assert came[0].n > 20
    assert all((one.picture.view() == one.n).all() for one in came), "late, but never torn"
    assert all_of_them.lost == came[0].n
    assert newest.n == 29
    assert latest.lost == 0


async def test_what_a_reader_holds_stays_and_the_publisher_never_waits(bus: BusClient, root: Path) -> None:
    held = []
    async with bus.subscribe(Frame) as frames:
        for n in range(7):
            await bus.publish(frame(n))
            held.append((await take(frames, 1))[0].event.picture.view())
        for n in range(7, 20):
            await bus.publish(frame(n, 2 * MIB))
        assert bus.stats()["unshared"] == 13
        await bus.publish(frame(20, 100))
        (received,) = await take(frames, 1)
        assert received.event.n == 20
        assert frames.lost == 13, "readers see what was dropped as loss"

        assert [int(picture[0]) for picture in held] == list(range(7))
        assert sum(path.stat().st_size for path in slots(root)) <= 8 * MIB
        held.clear()
        await bus.publish(frame(21, 2 * MIB))
        assert (await take(frames, 1))[0].event.n == 21


async def test_without_room_what_fits_goes_inline(bus: BusClient) -> None:
    held = []
    async with bus.subscribe(Frame) as frames:
        for n in range(20):
            await bus.publish(frame(n, MIB - 1000))
            held.append((await take(frames, 1))[0].event.picture.view())

    assert [int(picture[-1]) for picture in held] == list(range(20))
    assert bus.stats()["unshared"] == 0


async def test_a_durable_event_is_stored_whole_and_a_long_one_refused_before(
    broker: Broker, runtime: Path, root: Path
) -> None:
    stored = []

    async def store(record: Record) -> int:
        stored.append(record)
        return len(stored)

    async with client(runtime, limits=LIMITS, store=store) as bus, bus.subscribe(Take) as takes:
        await bus.publish(Take(samples=Array.of(b"s" * 500_000)))
        (received,) = await take(takes, 1)
        with pytest.raises(LocalMessageError, match=r"test\.record is durable: an event of"):
            await bus.publish(Take(samples=Array.of(b"s" * (2 * MIB))))

    assert bytes(received.event.samples.data) == b"s" * 500_000
    (record,) = stored
    assert len(record.body) > 500_000
    assert not is_reference(record.body)


async def test_a_state_is_retained_whole_and_what_is_passed_on_is_no_reference(bus: BusClient) -> None:
    retained = Retained()
    async with bus.subscribe_messages("test") as messages:
        await bus.publish(Map(cells=Array.of(b"m" * 300_000)))
        await bus.publish(frame(1, 3 * MIB))
        state, picture = [received.event for received in await take(messages, 2)]
        retained.keep(state)
        retained.keep(picture)

    assert bytes(state.decode(Map).cells.data) == b"m" * 300_000
    assert is_reference(picture.body), "longer than an event may be: who passes events on must leave it"
    assert retained.at("") == [state]
    with pytest.raises(LocalMessageError, match=r"test\.state is state"):
        await bus.publish(Map(cells=Array.of(b"m" * (2 * MIB))))


async def test_without_shared_memory_long_events_are_inline_or_refused(broker: Broker, runtime: Path) -> None:
    async with client(runtime) as bus, bus.subscribe(Frame) as frames:
        await bus.publish(frame(1, 900_000))
        assert (await take(frames, 1))[0].event.picture.shape == (900_000,)
        with pytest.raises(LocalMessageError, match="shm_max_bytes is 0"):
            await bus.publish(frame(1, 2 * MIB))


async def test_a_folder_that_is_not_ours_is_told_and_small_events_go_on(broker: Broker, runtime: Path) -> None:
    async with client(runtime, limits=LIMITS) as bus, bus.subscribe(Frame) as frames:
        await bus.publish(frame(1, 900_000))
        assert (await take(frames, 1))[0].event.n == 1
        with pytest.raises(LocalMessageError, match="no shared memory: No such file or directory"):
            await bus.publish(frame(1, 2 * MIB))


async def test_more_than_half_of_the_room_is_refused_naming_the_key(bus: BusClient) -> None:
    with pytest.raises(LocalMessageError, match=re.escape("test.frame: an event of 9437")):
        await bus.publish(frame(1, 9 * MIB))


async def test_plain_pyzmq_finds_the_body_by_the_reference(bus: BusClient, runtime: Path) -> None:
    """As README says: a dozen lines, without sparkd."""
    with zmq.Context() as context, context.socket(zmq.SUB) as plain:
        plain.linger = 0
        plain.subscribe(b"test.frame")
        plain.connect(f"ipc://{runtime / 'bus.sub'}")
        with anyio.fail_after(10):
            while not plain.poll(0):
                await bus.publish(frame(5, 200_000))
                await anyio.lowlevel.checkpoint()
        _topic, _header, body = plain.recv_multipart()

    ext = msgpack.unpackb(body)
    assert ext.code == 83
    _version, folder, slot, generation, offset, length, about = msgpack.unpackb(ext.data)
    with (runtime / "shm" / folder / str(slot)).open("rb") as file:
        header = file.read(24)
        file.seek(offset)
        found = msgpack.unpackb(file.read(length))
    assert header == b"sparkd-1" + generation.to_bytes(8, "little") + length.to_bytes(8, "little")
    assert found["picture"] == {"dtype": "|u1", "shape": [200_000], "data": b"\x05" * 200_000}
    assert msgpack.unpackb(about)["picture"]["data"] == 200_000


async def test_a_made_up_reference_is_malformed_and_harms_nobody(bus: BusClient) -> None:
    from sparkd.codec import WIRE_VERSION, Header  # noqa: PLC0415
    from sparkd.privacy import Privacy  # noqa: PLC0415

    async with bus.subscribe(Frame) as frames:
        for seq, body in enumerate((b"\xc7\x02S\x91\x01", b"\xc7\xffS", b"\xc7"), 1):
            header = Header(WIRE_VERSION, "n", "x", seq, 0, 1, 0, Privacy.LOCAL)
            bus.publish_message(Message("test.frame", header, body))
        await bus.publish(frame(1))
        assert (await take(frames, 1))[0].event.n == 1
        assert frames.malformed == 3
