"""Whether a process that is watched stayed flat: a leak must show, and a restart must not pass for one."""

from __future__ import annotations

from collections.abc import Callable

from sparkd.testing.chaos.watch import Sample, growth

MIB = 1 << 20
LEAK = MIB // 20
"""Each ten seconds."""


def looked(own: Callable[[int], int], *, pid: Callable[[int], int] = lambda _: 1, fds: int = 40) -> list[Sample]:
    return [Sample(at * 10.0, pid(at), own(at), 0, 0, fds) for at in range(300)]


def test_what_stays_is_flat_and_what_leaks_is_not() -> None:
    assert growth(looked(lambda _: 30 * MIB))["flat"]
    assert not growth(looked(lambda at: 30 * MIB + at * LEAK))["flat"]


def test_young_processes_at_the_end_hide_no_leak() -> None:
    samples = looked(lambda at: 30 * MIB + (at * LEAK if at < 150 else 0), pid=lambda at: 1 if at < 150 else at)
    found = growth(samples)

    assert not found["flat"]
    assert found["lived_s"] == 1470.0


def test_young_processes_at_the_begin_make_no_leak() -> None:
    samples = looked(lambda at: (20 if at < 150 else 30) * MIB, pid=lambda at: at if at < 150 else 1)
    assert growth(samples)["flat"]


def test_descriptors_that_are_left_open_show() -> None:
    samples = [Sample(at * 10.0, 1, MIB, 0, 0, 40 + at // 20) for at in range(300)]
    assert not growth(samples)["flat"]


def test_a_process_that_did_not_live_long_is_not_judged() -> None:
    assert not growth(looked(lambda _: MIB, pid=lambda at: at))["judged"]
