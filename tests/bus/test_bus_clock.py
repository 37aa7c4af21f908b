"""A step of the wall clock, an hour back or forth, means nothing to the bus: order and losses go by number."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sparkd.bus import Broker, Retained
from tests.bus.bus_rig import Count, client, take

pytestmark = pytest.mark.anyio
HOUR_NS = 3_600 * 10**9


@pytest.mark.parametrize("step_ns", [-HOUR_NS, HOUR_NS])
async def test_a_step_of_the_clock_loses_and_reorders_no_event(
    runtime: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    real = time.time_ns
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        for n in range(20):
            if n == 10:
                monkeypatch.setattr(time, "time_ns", lambda: real() + step_ns)
            await bus.publish(Count(n=n))
        received = await take(counts, 20)

    assert [each.event.n for each in received] == list(range(20))
    assert counts.lost == 0
    assert abs(received[10].header.wall_ns - received[9].header.wall_ns) > HOUR_NS // 2, "the clock did step"


@pytest.mark.parametrize("step_ns", [-HOUR_NS, HOUR_NS])
async def test_the_last_value_of_a_state_is_the_last_said_whatever_the_clock(
    runtime: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    real = time.time_ns
    retained = Retained()
    async with client(runtime) as bus, bus.subscribe_messages("test") as messages:
        await bus.publish(Count(n=1))
        monkeypatch.setattr(time, "time_ns", lambda: real() + step_ns)
        await bus.publish(Count(n=2))
        for received in await take(messages, 2):
            retained.keep(received.event)

    (held,) = retained.at("test")
    assert held.decode(Count).n == 2
