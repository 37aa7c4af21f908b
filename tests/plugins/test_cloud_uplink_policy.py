"""What the uplink lets go, what a failure means to it, and whose turn is next: no disk, no link."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import CallError, CallErrorKind, LocalMessageError, Privacy, Record, StorageError, Stored
from sparkd_plugins.cloud_uplink.policy import (
    Rules,
    Verdict,
    behind,
    next_limit,
    retry_delay_s,
    sort_out,
    verdict,
    wanted,
    withheld_because,
)
from sparkd_plugins.cloud_uplink.settings import CloudUplinkConfig
from sparkd_plugins.cloud_uplink.turns import Turns


def record(topic: str = "edge.telemetry", *, privacy: Privacy = Privacy.SHARED) -> Record:
    return Record(topic=topic, body=b"x", privacy=privacy)


@pytest.mark.parametrize(
    ("privacy", "rules", "reason"),
    [
        (Privacy.NODE, Rules(), "privacy"),
        (Privacy.NODE, Rules(same_site=True), "privacy"),
        (Privacy.NODE, Rules(same_node=True, same_site=True), ""),
        (Privacy.LOCAL, Rules(), "privacy"),
        (Privacy.LOCAL, Rules(same_site=True), ""),
        (Privacy.SHARED, Rules(), ""),
    ],
)
def test_a_record_goes_as_far_as_its_class_allows(privacy: Privacy, rules: Rules, reason: str) -> None:
    assert withheld_because(record(privacy=privacy), rules) == reason


def test_only_allowed_topics_go_and_internal_ones_never() -> None:
    rules = Rules(topics=("edge.sensors",))

    assert withheld_because(record("edge.sensors.power"), rules) == ""
    assert withheld_because(record("edge.sensorsx"), rules) == "topic"
    assert withheld_because(record("sparkd.ingested"), Rules()) == "internal"


def test_sorting_keeps_every_record_in_exactly_one_place() -> None:
    big = Record(topic="edge.telemetry", body=b"x" * 101, privacy=Privacy.SHARED)
    read = [Stored(1, record()), Stored(2, record(privacy=Privacy.NODE)), Stored(3, big)]

    batch = sort_out(read, Rules(max_record_bytes=100))

    assert [r.seq for r in batch.records] == [1]
    assert batch.withheld == {"privacy": 1}
    assert [(stored.seq, reason) for stored, reason in batch.dead] == [(3, "oversize: 101 bytes, the limit is 100")]
    assert batch.size_bytes == 1


@pytest.mark.parametrize(
    ("patterns", "expected"), [(["*"], True), (["a/*"], True), (["a/b"], True), (["b/*"], False), ([], False)]
)
def test_streams_are_chosen_by_pattern(patterns: list[str], *, expected: bool) -> None:
    assert wanted("a", "b", patterns) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CallError(CallErrorKind.UNAVAILABLE, ""), Verdict.UNREACHABLE),
        (CallError(CallErrorKind.DENIED, ""), Verdict.UNREACHABLE),
        (CallError(CallErrorKind.UNKNOWN_METHOD, ""), Verdict.UNREACHABLE),
        (CallError(CallErrorKind.DEADLINE, ""), Verdict.TOO_SLOW),
        (CallError(CallErrorKind.INVALID_PARAMS, ""), Verdict.UNACCEPTABLE),
        (CallError(CallErrorKind.FAILED, ""), Verdict.UNACCEPTABLE),
        (StorageError(""), Verdict.UNREACHABLE),
        (LocalMessageError(""), Verdict.UNACCEPTABLE),
    ],
)
def test_a_failure_is_somebodys_fault(error: Exception, expected: Verdict) -> None:
    assert verdict(error) is expected


def test_batches_shrink_when_refused_and_grow_when_taken() -> None:
    assert next_limit(500, Verdict.UNACCEPTABLE, most=500) == 1
    assert next_limit(500, Verdict.TOO_SLOW, most=500) == 250
    assert next_limit(1, Verdict.TOO_SLOW, most=500) == 1
    assert next_limit(500, Verdict.UNREACHABLE, most=500) == 500
    assert next_limit(300, None, most=500) == 500


@given(failures=st.integers(0, 10_000))
def test_a_retry_waits_between_its_limits(failures: int) -> None:
    assert 1.0 <= retry_delay_s(failures, least_s=1.0, most_s=60.0) <= 60.0


def test_history_is_more_than_three_batches() -> None:
    assert not behind(tail=1500, through=0, batch=500)
    assert behind(tail=1501, through=0, batch=500)


@pytest.mark.parametrize(
    ("key", "value"), [("in_flight", 0), ("deadline_s", 0.0), ("retry_most_s", 0.1), ("backfill_rate_bytes_per_s", -1)]
)
def test_a_config_that_cannot_work_names_the_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        CloudUplinkConfig(target="primecore", **{key: value})  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_fresh_goes_before_history_then_priority_then_arrival() -> None:
    turns, order = Turns(1), list[str]()
    queued = [("old", True, 9), ("low", False, 0), ("low2", False, 0), ("high", False, 5)]

    async def take(name: str, priority: int, *, history: bool) -> None:
        async with turns.turn(history=history, priority=priority):
            order.append(name)

    async with anyio.create_task_group() as tasks, turns.turn(history=False, priority=0):
        for name, history, priority in queued:
            tasks.start_soon(partial(take, name, priority, history=history))
            await anyio.lowlevel.checkpoint()

    assert order == ["high", "low", "low2", "old"]


@pytest.mark.anyio
async def test_history_never_takes_the_last_place() -> None:
    turns, entered = Turns(2), list[str]()

    async def take(name: str, *, history: bool) -> None:
        async with turns.turn(history=history, priority=0):
            entered.append(name)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        for name, history in (("old1", True), ("old2", True), ("new", False)):
            tasks.start_soon(partial(take, name, history=history))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert entered == ["old1", "new"]


@pytest.mark.anyio
async def test_one_who_gives_up_waiting_leaves_no_hole() -> None:
    turns = Turns(1)
    async with turns.turn(history=False, priority=0):
        with anyio.move_on_after(0):
            async with turns.turn(history=False, priority=9):
                pytest.fail("there is only one place")
    with anyio.fail_after(1):
        async with turns.turn(history=True, priority=0):
            pass
