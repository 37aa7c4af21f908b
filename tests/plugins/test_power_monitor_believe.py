from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import PowerReading
from sparkd_plugins.power_monitor.believe import LIMITS, Judge

ODD = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=3))


def test_a_plain_reading_is_believed_whole() -> None:
    reading = PowerReading(mains=True, charge_percent=88.0, load_watts=6.5)

    assert Judge().hear(reading).reading == reading


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -20.0, 5000.0, True, "88"])
def test_what_is_not_possible_is_dropped_and_the_rest_kept(value: Any) -> None:
    verdict = Judge().hear(PowerReading(mains=True, charge_percent=value, load_watts=6.5))

    assert verdict.reading.charge_percent is None
    assert (verdict.reading.mains, verdict.reading.load_watts) == (True, 6.5)
    assert verdict.doubts[0].startswith("charge_percent: ")


def test_a_gauge_that_is_learning_says_more_than_all() -> None:
    assert Judge().hear(PowerReading(charge_percent=103.0)).reading.charge_percent == 100.0


@pytest.mark.parametrize("name", ["mains", "battery_low", "shutdown"])
def test_a_change_that_matters_must_be_said_twice(name: str) -> None:
    judge = Judge()
    was, becomes = (True, False) if name == "mains" else (False, True)

    def heard(said: object) -> Any:
        fields: dict[str, Any] = {name: said}
        return getattr(judge.hear(PowerReading(**fields)).reading, name)

    assert heard(was) is was
    assert heard(becomes) is was
    assert heard(was) is was
    assert heard(becomes) is was
    assert heard(becomes) is becomes


def test_a_jump_of_the_charge_must_be_said_twice_and_alike() -> None:
    judge = Judge()
    heard = [judge.hear(PowerReading(charge_percent=said)).reading.charge_percent for said in (90, 3, 89, 3, 60, 61)]

    assert heard == [90, 90, 89, 89, 89, 61]


def test_a_slow_fall_is_believed_as_it_comes() -> None:
    judge = Judge()
    said = [100 - step for step in range(101)]

    assert [judge.hear(PowerReading(charge_percent=float(one))).reading.charge_percent for one in said] == said


def test_what_is_not_known_any_more_is_not_held_on_to() -> None:
    judge = Judge()
    judge.hear(PowerReading(mains=True, charge_percent=90.0))

    assert judge.hear(PowerReading()).reading == PowerReading()


@given(st.lists(st.fixed_dictionaries({f.name: ODD for f in fields(PowerReading) if f.name != "detail"}), max_size=5))
def test_whatever_is_said_is_judged(readings: list[dict[str, Any]]) -> None:
    judge = Judge()
    for one in readings:
        reading = judge.hear(PowerReading(**one)).reading
        for name, (low, high) in LIMITS.items():
            value = getattr(reading, name)
            assert value is None or low <= value <= high
        assert reading.mains in (True, False, None)
        assert isinstance(reading.battery_low, bool)
