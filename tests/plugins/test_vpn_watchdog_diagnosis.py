"""Why a tunnel does not work, and which repair is next: two tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparkd import REPAIR_STEPS
from sparkd_plugins.vpn_watchdog.diagnosis import RULES, Evidence, afterwards, diagnose, while_up
from sparkd_plugins.vpn_watchdog.ladder import ALL, PLANS, TELL, Choice, Ladder, Limits

FOUND = Evidence(
    endpoint="192.0.2.1:51820",
    name="hub.test:51820",
    resolved=("192.0.2.1:51820",),
    out="eth0",
    udp="silent",
    host=True,
)
LIMITS = Limits(steps=REPAIR_STEPS, per_hour=6, backoff_s=60.0, backoff_most_s=300.0)


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        (replace(FOUND, interface_missing="No such device"), "interface-missing"),
        (replace(FOUND, route=False, captive=True), "no-network"),
        (replace(FOUND, carrier=False, host=False), "no-network"),
        (replace(FOUND, captive=True, resolved=("10.0.0.1:51820",)), "captive-portal"),
        (replace(FOUND, endpoint="", resolved=()), "endpoint-unknown"),
        (replace(FOUND, dialled=False), "peer-away"),
        (replace(FOUND, resolved=("192.0.2.9:51820",), host=False), "endpoint-moved"),
        (replace(FOUND, udp="denied"), "udp-denied"),
        (replace(FOUND, udp="refused"), "peer-down"),
        (replace(FOUND, receiving=True), "one-way"),
        (replace(FOUND, host=False), "peer-unreachable"),
        (replace(FOUND, udp="unreachable"), "peer-unreachable"),
        (replace(FOUND, reset_in_vain=True), "udp-blocked"),
        (FOUND, "no-answer"),
        (replace(FOUND, resolved=()), "no-answer"),  # nobody could say what the name stands for
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_cause_is_told_from_the_others(evidence: Evidence, word: str) -> None:
    found = diagnose(evidence)

    assert found.word == word
    assert found.reason
    assert "{" not in found.reason + found.remedy


def test_every_rule_has_a_word_that_is_planned_for_or_left_alone() -> None:
    words = {word for word, *_ in RULES}

    assert PLANS.keys() <= words
    assert words - PLANS.keys() == {"no-network", "captive-portal", "udp-denied", "peer-away", "one-way"}


def test_what_it_was_is_known_when_it_is_over() -> None:
    assert afterwards("no-answer", step="reset-peer", renewed=True).word == "peer-restarted"
    assert afterwards("peer-down", step="", renewed=True).word == "peer-restarted"
    assert afterwards("no-answer", step="", renewed=False).word == ""
    assert afterwards("udp-blocked", step="new-port", renewed=True).word == "nat-rebinding"
    assert afterwards("peer-unreachable", step="re-resolve", renewed=True).word == "endpoint-moved"
    assert afterwards("udp-blocked", step="", renewed=True).word == ""
    assert afterwards("no-network", step="", renewed=True).word == ""


def test_what_is_worth_saying_of_a_tunnel_that_works() -> None:
    assert while_up(moved="", mtu=None, step_s=0.0, renewed_early=False).word == ""
    assert while_up(moved="port", mtu=None, step_s=0.0, renewed_early=False).word == "nat-rebinding"
    assert while_up(moved="address", mtu=None, step_s=0.0, renewed_early=False).word == "endpoint-moved"
    assert while_up(moved="", mtu=None, step_s=0.0, renewed_early=True).word == "peer-restarted"
    assert while_up(moved="", mtu=None, step_s=-7200.0, renewed_early=True).word == "clock-step"
    shrunk = while_up(moved="", mtu=(1220, 1420), step_s=0.0, renewed_early=False)
    assert (shrunk.word, "MTU = 1220" in shrunk.remedy) == ("mtu-shrunk", True)


def free(_: str) -> str:
    return ""


def climb(ladder: Ladder, now: float, word: str = "no-answer") -> list[str]:
    """Make every step that is offered at *now*, in vain."""
    made = []
    while (step := ladder.next(now, word, hindrance=free).step) and step != TELL:
        ladder.note(step, helped=False, now=now)
        made.append(step)
    return made


def test_steps_rise_and_end_with_the_operator_once() -> None:
    ladder = Ladder(LIMITS)
    steps = []
    while (choice := ladder.next(0.0, "no-answer", hindrance=free)).step:
        ladder.note(choice.step, helped=False, now=0.0)
        steps.append(choice.step)

    assert tuple(steps) == (*ALL, TELL) == REPAIR_STEPS
    assert choice == Choice(why="waiting after a climb in vain", at=60.0)


def test_the_wait_doubles_up_to_its_limit_and_begins_anew_when_it_is_over() -> None:
    ladder = Ladder(replace(LIMITS, per_hour=1000))
    waits, now = [], 0.0
    for _ in range(5):
        assert climb(ladder, now) == list(ALL)
        waits.append(ladder.not_before - now)
        now = ladder.not_before
    assert waits == [60.0, 120.0, 240.0, 300.0, 300.0]

    ladder.over()
    assert climb(ladder, now) == list(ALL)
    assert ladder.not_before - now == 60


def test_no_more_than_so_many_an_hour_however_often_it_is_lost() -> None:
    ladder, made = Ladder(LIMITS), []
    for now in range(0, 7200, 10):  # a tunnel that flaps for two hours
        step = ladder.next(float(now), "no-answer", hindrance=free).step
        if step and step != TELL:
            ladder.note(step, helped=True, now=float(now))
            made.append(now)
            ladder.over()

    assert len(made) <= 2 * LIMITS.per_hour
    for begin in range(0, 7200, 10):
        assert sum(begin <= at < begin + 3600 for at in made) <= LIMITS.per_hour


@pytest.mark.parametrize(
    "word", ["no-network", "captive-portal", "one-way", "peer-away", "clock-step", "mtu-shrunk", ""]
)
def test_what_no_repair_can_mend_is_only_told(word: str) -> None:
    ladder = Ladder(LIMITS)

    assert ladder.next(0.0, word, hindrance=free).step == TELL
    assert ladder.next(0.0, word, hindrance=free).step == ""


def test_a_step_with_a_hindrance_or_that_is_not_allowed_is_passed_by() -> None:
    ladder = Ladder(replace(LIMITS, steps=("reset-peer", "new-port")))

    assert climb(ladder, 0.0) == ["reset-peer", "new-port"]
    ladder = Ladder(LIMITS)
    assert ladder.next(0.0, "no-answer", hindrance=lambda step: "no" if step != "new-port" else "").step == "new-port"


def test_news_of_a_name_end_the_wait() -> None:
    ladder = Ladder(LIMITS)
    climb(ladder, 0.0)
    assert ladder.next(1.0, "endpoint-moved", hindrance=free).step in {"", TELL}
    ladder.again("re-resolve")

    assert ladder.next(2.0, "endpoint-moved", hindrance=free).step == "re-resolve"


def test_it_is_remembered_what_helped_and_when_repairs_were_made() -> None:
    ladder = Ladder(LIMITS)
    ladder.note("reset-peer", helped=False, now=0.0)
    ladder.note("reset-peer", helped=True, now=3000.0)
    ladder.note(TELL, helped=False, now=3000.0)

    assert ladder.helped == {"reset-peer": [2, 1]}
    assert (ladder.last_hour(3500.0), ladder.last_hour(3601.0), ladder.last_hour(9000.0)) == (2, 1, 0)
