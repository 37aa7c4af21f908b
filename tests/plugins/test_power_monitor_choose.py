from __future__ import annotations

from typing import Any

import pytest

from sparkd import PowerReading
from sparkd_plugins.power_monitor.choose import Held, Picture, choose


def held(**fields: Any) -> Held:
    return Held(PowerReading(**fields), at=0.0, stale_after_s=15.0)


def picture(now: float = 0.0, order: tuple[str, ...] = (), **sources: Held) -> Picture:
    return choose(sources, order, now)


def test_the_first_source_in_the_order_that_knows_a_value_gives_it() -> None:
    seen = picture(ups=held(charge_percent=80.0), ina=held(load_watts=7.0, charge_percent=79.0), order=("ina", "ups"))

    assert (seen.value("charge_percent"), seen.values["charge_percent"].source) == (79.0, "ina")
    assert seen.values["load_watts"].source == "ina"
    assert seen.value("solar_watts") is None


def test_a_silent_source_counts_for_nothing() -> None:
    both = {"ups": held(mains=True), "pin": Held(PowerReading(mains=False), at=10.0, stale_after_s=15.0)}

    assert choose(both, ("ups",), 10.0).mains is True
    assert choose(both, ("ups",), 20.0).mains is False
    assert choose(both, ("ups",), 30.0).mains is None


def test_sources_that_disagree_are_named_and_the_first_counts() -> None:
    seen = picture(
        ups=held(mains=True, charge_percent=90.0), pin=held(mains=False, charge_percent=50.0), order=("ups", "pin")
    )

    assert seen.mains is True
    assert seen.conflicts == (
        "charge_percent: pin says 50, ups says 90, which counts",
        "mains: pin says lost, ups says there, which counts",
    )


@pytest.mark.parametrize(
    ("fields", "mains"),
    [
        ({"grid_watts": 300.0}, True),
        ({"battery_watts": -8.0}, False),
        ({"battery_amps": -1.0}, False),
        ({"battery_watts": -0.5}, None),
        ({"battery_watts": 8.0}, True),
        ({"battery_watts": 8.0, "solar_watts": 20.0}, None),
        ({"charge_percent": 50.0}, None),
    ],
)
def test_where_no_source_says_it_the_flow_tells(fields: dict[str, float], mains: object) -> None:
    assert picture(one=held(**fields)).mains is mains


def test_a_low_battery_counts_from_any_source_unless_the_mains_are_there() -> None:
    assert picture(a=held(mains=False), b=held(battery_low=True)).battery_low == "b"
    assert picture(a=held(mains=True), b=held(battery_low=True)).battery_low == ""


def test_the_end_counts_from_any_source() -> None:
    assert picture(a=held(mains=True), b=held(shutdown=True)).ending == "b"
