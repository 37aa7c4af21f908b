from __future__ import annotations

import random

import pytest

from sparkd import Measured
from sparkd_plugins.power_monitor.choose import Picture
from sparkd_plugins.power_monitor.endurance import Endurance, load_watts


def seen(*, mains: bool | None = False, **values: float) -> Picture:
    return Picture(values={k: Measured(value=v, source="ups") for k, v in values.items()}, mains=mains, mains_by="ups")


def test_by_the_charges_fall() -> None:
    random.seed(7)
    endurance = Endurance()
    for second in range(0, 1200, 10):
        endurance.hear(seen(charge_percent=90 - second / 60 + random.gauss(0, 0.1)), float(second))
    found = endurance.estimate(seen(charge_percent=70.0))

    assert found is not None
    assert found.source == "model"
    assert found.low_seconds < 70 * 60 < found.high_seconds
    assert found.seconds == pytest.approx(70 * 60, rel=0.05)


def test_nine_spans_in_ten_hold_the_truth() -> None:
    held = 0
    for seed in range(200):
        noise = random.Random(seed)
        endurance = Endurance()
        for second in range(0, 600, 10):
            endurance.hear(seen(charge_percent=50 - second / 100 + noise.gauss(0, 0.3)), float(second))
        endurance.hear(seen(charge_percent=44.0), 600.0)
        found = endurance.estimate(seen(charge_percent=44.0))
        assert found is not None
        held += found.low_seconds <= 4400 <= found.high_seconds

    assert 170 <= held <= 195


def test_by_the_load_until_the_fall_is_long_enough() -> None:
    endurance = Endurance()
    for second, watts in enumerate((9.0, 11.0, 10.0)):
        endurance.hear(seen(charge_percent=50.0, load_watts=watts, capacity_wh=40.0), float(second))
    found = endurance.estimate(seen(charge_percent=50.0, load_watts=10.0, capacity_wh=40.0))

    assert found is not None
    assert found.seconds == pytest.approx(7200)
    assert found.low_seconds < 7200 < found.high_seconds


def test_a_sources_own_figure_is_told_with_a_span_that_holds_it() -> None:
    found = Endurance().estimate(seen(time_to_empty_s=600.0))

    assert found is not None
    assert (found.seconds, found.source) == (600.0, "ups")
    assert found.low_seconds < 600 < found.high_seconds


def test_nothing_is_told_on_the_mains_or_of_what_nobody_measures() -> None:
    assert Endurance().estimate(seen(mains=True, time_to_empty_s=600.0)) is None
    assert Endurance().estimate(seen(charge_percent=50.0)) is None


def test_the_mains_or_the_sun_end_the_line() -> None:
    endurance = Endurance()
    for second in range(0, 300, 10):
        endurance.hear(seen(charge_percent=50 - second / 60), float(second))
    assert endurance.estimate(seen(charge_percent=45.0)) is not None
    endurance.hear(seen(charge_percent=50.0), 310.0)
    assert endurance.estimate(seen(charge_percent=50.0)) is None


def test_the_load_is_measured_reckoned_or_what_the_battery_gives() -> None:
    assert load_watts(seen(load_watts=5.0, load_volts=9.0, load_amps=9.0)) == 5.0
    assert load_watts(seen(load_volts=5.0, load_amps=1.5)) == 7.5
    assert load_watts(seen(battery_watts=-6.0)) == 6.0
    assert load_watts(seen(mains=None, battery_watts=-6.0)) is None
    assert load_watts(seen()) is None
