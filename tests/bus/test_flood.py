from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import Durability, Record, event
from sparkd.bus import Broker, BusLimits
from sparkd.bus.flood import Allowance
from tests.bus.bus_rig import Count, Keep, client, take

pytestmark = pytest.mark.anyio


@event("test.state", durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    n: int


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_allowance_lets_a_second_of_messages_through_and_fills_with_time() -> None:
    clock = Clock()
    allowance = Allowance(10, 0, clock=clock)

    assert [allowance.take(100) for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.35
    assert [allowance.take(100) for _ in range(4)] == [True] * 3 + [False]
    clock.now += 3600
    assert sum(allowance.take(100) for _ in range(100)) == 10, "a rest saves up no more than a second"


def test_an_allowance_of_bytes_takes_a_message_larger_than_itself_once_it_is_full() -> None:
    clock = Clock()
    allowance = Allowance(0, 1000, clock=clock)

    assert allowance.take(5000)
    clock.now += 4
    assert not allowance.take(1), "it was overdrawn by four seconds"
    clock.now += 1.5
    assert allowance.take(400)


def test_without_bounds_everything_passes() -> None:
    allowance = Allowance(0, 0)

    assert all(allowance.take(1 << 30) for _ in range(100_000))


async def test_a_flood_is_dropped_counted_told_and_seen_by_readers_as_loss(broker: Broker, runtime: Path) -> None:
    told = []
    limits = BusLimits(flood_messages_per_s=50)
    async with (
        client(runtime, "flooder", limits=limits, on_flood=lambda *flood: told.append(flood)) as flooder,
        client(runtime, "healthy", limits=limits) as healthy,
        client(runtime, "reader") as reader,
        reader.subscribe(Count, topic="test.count.flooder") as flood,
        reader.subscribe(Count, topic="test.count.healthy") as calm,
    ):
        for n in range(1000):
            await flooder.publish(Count(n=n), topic="test.count.flooder")
        for n in range(40):
            await healthy.publish(Count(n=n), topic="test.count.healthy")

        assert [received.event.n for received in await take(calm, 40)] == list(range(40))
        assert calm.lost == 0
        came = 1000 - flooder.flooded
        await take(flood, came)
        with anyio.fail_after(5):  # the tails that are said each second tell of those that were dropped last
            while flood.lost < flooder.flooded:
                await anyio.lowlevel.checkpoint()

    assert 50 <= came < 200
    assert flood.lost == flooder.flooded == flooder.stats()["flooded"]
    assert told[0] == ("test.count.flooder", 1)
    assert len(told) == flooder.flooded
    assert healthy.flooded == 0


@pytest.mark.parametrize("what", [Keep, Mode])
async def test_what_is_kept_is_slowed_and_never_dropped(broker: Broker, runtime: Path, what: type[Any]) -> None:
    stored = []

    async def store(record: Record) -> int:
        stored.append(record)
        return len(stored)

    async with (
        client(runtime, limits=BusLimits(flood_messages_per_s=40), store=store) as bus,
        bus.subscribe(what, limit=100) as events,
    ):
        begun = anyio.current_time()
        for n in range(60):
            await bus.publish(what(n=n))
        took = anyio.current_time() - begun

        assert [received.event.n for received in await take(events, 60)] == list(range(60))

    assert took >= 0.45, "60 events, of which 40 may go at once and 40 each second"
    assert bus.flooded == 0
    assert len(stored) == (60 if what is Keep else 0)


async def test_a_service_in_a_tight_loop_still_answers(broker: Broker, runtime: Path) -> None:
    """Publishing seldom has to wait, so a loop that does nothing else would never let another task run."""
    async with client(runtime, limits=BusLimits(flood_messages_per_s=100)) as bus:
        answered = anyio.Event()

        async def answer() -> None:
            answered.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            with anyio.fail_after(10):
                while not answered.is_set():
                    await bus.publish(Count(n=1))
