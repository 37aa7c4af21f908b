"""How a peer is judged: the table, its past on a clock that nobody sets, and the quality of its link."""

from __future__ import annotations

import pytest

from sparkd import TUNNEL_STATES
from sparkd_plugins.vpn_watchdog.clock import Clock, ClockWatch
from sparkd_plugins.vpn_watchdog.quality import WINDOW, Quality, train_bps
from sparkd_plugins.vpn_watchdog.states import RULES, Probed, Signals, TunnelState, judge
from sparkd_plugins.vpn_watchdog.track import Track
from sparkd_plugins.vpn_watchdog.wg import Reading

NOON = 1_800_000_000.0


@pytest.mark.parametrize(
    ("signals", "state"),
    [
        (Signals(asleep=True, probed=Probed.LOST), "asleep"),
        (Signals(probed=Probed.ANSWERED, age_s=None), "up"),
        (Signals(probed=Probed.ANSWERED, expected=False), "up"),
        (Signals(probed=Probed.LOST, expected=False, wanted=True, silent_s=999.0), "idle"),
        (Signals(probed=Probed.ANSWERED, age_s=9999.0), "up"),
        (Signals(probed=Probed.MISSED, age_s=3.0), "stale"),
        (Signals(probed=Probed.LOST, age_s=3.0), "down"),
        (Signals(probed=Probed.LOST, receiving=True), "stale"),
        (Signals(probed=Probed.LOST, may_sleep=True), "asleep"),
        (Signals(age_s=135.0, wanted=True), "up"),
        (Signals(age_s=136.0, wanted=True), "stale"),
        (Signals(age_s=180.0, wanted=True, silent_s=999.0), "stale"),
        (Signals(age_s=181.0, wanted=True, silent_s=999.0), "down"),
        (Signals(age_s=181.0, wanted=True, silent_s=999.0, may_sleep=True), "asleep"),
        (Signals(age_s=99_999.0, wanted=True, silent_s=10.0), "stale"),
        (Signals(age_s=None, wanted=True, silent_s=999.0), "down"),
        (Signals(age_s=99_999.0, wanted=False, silent_s=99_999.0), "idle"),
        (Signals(age_s=None, wanted=False), "idle"),
    ],
    ids=str,
)
def test_each_case_of_the_table(signals: Signals, state: str) -> None:
    assert judge(signals)[0] == state


def test_every_state_and_every_rule_can_be_reached() -> None:
    assert {state.value for _, _, state in RULES} == set(TUNNEL_STATES) == set(TunnelState)
    assert len({why for why, _, _ in RULES}) == len(RULES)


class SetClock(Clock):
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.walls, self.monos = NOON, 1000.0

    def wall(self) -> float:
        return self.walls

    def mono(self) -> float:
        return self.monos

    def pass_s(self, seconds: float) -> None:
        self.walls += seconds
        self.monos += seconds


@pytest.mark.parametrize("step_s", [7200.0, -7200.0, -NOON])
def test_a_clock_that_is_set_makes_no_handshake_older_or_younger(step_s: float) -> None:
    clock, track = SetClock(), Track(since=1000.0)
    track.take(Reading(epoch=int(NOON) - 30), now=clock.mono(), wall=clock.wall())
    clock.walls += step_s
    clock.pass_s(60)
    track.take(Reading(epoch=int(NOON) - 30), now=clock.mono(), wall=clock.wall())
    assert track.age_s(clock.mono()) == 90

    epoch = max(int(clock.wall()), 1)  # the next handshake bears the new time
    track.take(Reading(epoch=epoch), now=clock.mono(), wall=clock.wall())
    clock.pass_s(5)
    assert track.age_s(clock.mono()) == 5
    assert track.renewed_after_s == 90


def test_a_handshake_of_the_future_is_as_old_as_its_first_sight() -> None:
    track = Track(since=1000.0)
    track.take(Reading(epoch=int(NOON) + 86_400), now=1000.0, wall=NOON)

    assert track.age_s(1007.0) == 7


def test_bytes_and_endpoints_are_followed() -> None:
    track = Track(since=0.0)
    track.take(Reading(received=100, sent=100, endpoint="192.0.2.1:1"), now=0.0, wall=NOON)
    assert not track.receiving(0.0, within_s=10)  # what was there before says nothing
    assert track.silent_s(30.0) == 30

    track.take(Reading(received=132, sent=100, endpoint="192.0.2.1:2"), now=30.0, wall=NOON)
    assert (track.moved, track.receiving(35.0, within_s=10), track.sending(35.0, within_s=60)) == ("port", True, False)
    assert track.received_since(29.0, 35.0, within_s=10)
    assert not track.received_since(30.0, 35.0, within_s=10)
    assert track.silent_s(35.0) == 5

    track.take(Reading(received=132, sent=148, endpoint="192.0.2.9:2"), now=40.0, wall=NOON)
    assert (track.moved, track.restarted, track.sending(41.0, within_s=60)) == ("address", False, True)
    track.take(Reading(received=0, sent=0, endpoint=""), now=50.0, wall=NOON)
    assert (track.moved, track.restarted, track.endpoint) == ("", True, "192.0.2.9:2")


def test_a_peer_that_only_tries_to_begin_a_session_is_not_heard() -> None:
    track = Track(since=0.0)
    track.take(Reading(received=1000), now=0.0, wall=NOON)
    track.take(Reading(received=1000 + 2 * 148), now=5.0, wall=NOON)
    assert not track.receiving(5.0, within_s=10)

    track.take(Reading(received=1000 + 2 * 148 + 32), now=9.0, wall=NOON)
    assert track.receiving(9.0, within_s=10)
    track.take(Reading(received=148), now=30.0, wall=NOON)  # it was reset, and tries again
    assert not track.receiving(30.0, within_s=10)


def test_a_step_of_the_clock_is_noticed_and_a_slow_one_followed() -> None:
    clock = SetClock()
    watch = ClockWatch(clock, 30.0)
    for _ in range(100):
        clock.pass_s(5)
        clock.walls += 1.0  # NTP that slews
        watch.look()
    assert watch.stepped_s == 0
    clock.walls -= 7200
    clock.pass_s(5)
    watch.look()

    assert watch.stepped_s == pytest.approx(-7200)
    assert watch.stepped_at == clock.mono()


def test_the_real_clocks_agree_for_a_moment() -> None:
    watch = ClockWatch(Clock(), 1.0)
    watch.look()

    assert watch.stepped_s == 0


def test_quality_is_that_of_the_last_packets() -> None:
    quality = Quality()
    assert (quality.latency_ms, quality.jitter_ms, quality.loss_percent) == (None, None, None)
    quality.add([10.0, None, 12.0, 11.0])

    assert (quality.latency_ms, quality.jitter_ms, quality.loss_percent) == (11.0, 1.5, 25.0)
    quality.add([5.0] * WINDOW)
    assert (quality.latency_ms, quality.jitter_ms, quality.loss_percent) == (5.0, 0.0, 0.0)
    quality.begin_anew()
    assert quality.loss_percent is None


def test_a_train_shows_the_narrowest_part_of_the_way() -> None:
    at_5_mbit = [1200 * 8 / 5e6 * number for number in range(16)]

    assert train_bps(at_5_mbit, 1200) == pytest.approx(5e6)
    assert train_bps(at_5_mbit[:5], 1200) is None
    assert train_bps([0.0001 * number for number in range(16)], 1200) is None
