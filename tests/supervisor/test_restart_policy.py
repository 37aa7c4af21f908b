from __future__ import annotations

import pytest

from sparkd.supervisor.policy import BROKEN_RETRY_S, End, EndKind, RestartPolicy, Verdict

FAILED = End(kind=EndKind.FAILED)
SIGNALLED = End(kind=EndKind.SIGNALLED)
MISSING = End(kind=EndKind.MISSING)


def policy() -> RestartPolicy:
    return RestartPolicy(jitter=lambda: 0.0)


def test_pauses_double_and_the_fifth_failure_in_a_minute_breaks() -> None:
    rule = policy()

    verdicts = [rule.ended(FAILED, now=float(t), healthy_s=1) for t in (0, 1, 3, 7, 15)]

    assert verdicts[:4] == [Verdict(1), Verdict(2), Verdict(4), Verdict(8)]
    assert verdicts[4] == Verdict(BROKEN_RETRY_S, broken=True)


def test_slow_failures_never_break_and_the_pause_is_bounded() -> None:
    rule = policy()

    pauses = [rule.ended(FAILED, now=t * 59.0, healthy_s=1) for t in range(20)]

    assert not any(v.broken for v in pauses)
    assert max(v.pause_s for v in pauses) == 60


def test_the_first_failure_after_a_healthy_minute_is_answered_at_once() -> None:
    rule = policy()
    for t in range(4):
        rule.ended(FAILED, now=float(t), healthy_s=0)

    assert rule.ended(FAILED, now=100, healthy_s=61) == Verdict(0)
    assert rule.ended(FAILED, now=101, healthy_s=1) == Verdict(1)


def test_a_signal_from_outside_is_answered_at_once_and_breaks_nothing() -> None:
    rule = policy()

    verdicts = [rule.ended(SIGNALLED, now=t / 10, healthy_s=0) for t in range(10)]

    assert set(verdicts) == {Verdict(0)}


def test_a_storm_of_signals_is_slowed_down() -> None:
    rule = policy()
    for t in range(10):
        rule.ended(SIGNALLED, now=t / 10, healthy_s=0)

    assert rule.ended(SIGNALLED, now=1.1, healthy_s=0) == Verdict(1)
    assert rule.ended(SIGNALLED, now=2.2, healthy_s=0) == Verdict(2)


def test_what_is_missing_is_retried_for_ever() -> None:
    rule = policy()

    verdicts = [rule.ended(MISSING, now=float(t), healthy_s=0) for t in range(100)]

    assert not any(v.broken for v in verdicts)
    assert verdicts[-1] == Verdict(60)


def test_bad_config_is_broken_at_once() -> None:
    assert policy().ended(End(kind=EndKind.MISCONFIGURED), now=0, healthy_s=0).broken


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_jitter_stretches_a_pause_by_a_quarter_at_the_most(jitter: float) -> None:
    pause = RestartPolicy(jitter=lambda: jitter).ended(FAILED, now=0, healthy_s=0).pause_s

    assert pause == pytest.approx(1 + jitter / 4)
