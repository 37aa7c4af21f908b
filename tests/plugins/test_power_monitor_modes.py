from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import POWER_MODES, Measured
from sparkd_plugins.power_monitor.choose import Picture
from sparkd_plugins.power_monitor.modes import SEVERITY, TABLE, Cue, Edge, Mode, Modes, ModesConfig, worse

CONFIG = ModesConfig()
SILENT = Picture()


def seen(*, mains: bool | None, percent: float | None = None, **more: Any) -> Picture:
    values = {} if percent is None else {"charge_percent": Measured(value=percent, source="ups")}
    values |= {name: Measured(value=value, source="ups") for name, value in more.pop("values", {}).items()}
    return Picture(values=values, mains=mains, mains_by="ups", **more)


def walk(modes: Modes, picture: Picture, *, begin: float, end: float, step: float = 0.5) -> list[Mode]:
    """Say *picture* every *step* seconds; return the modes that were come to."""
    passed: list[Mode] = []
    now = begin
    while now <= end:
        passed += [change.mode for change in modes.hear(picture, now)]
        now += step
    return passed


def at(mode: Mode) -> Modes:
    modes = Modes(CONFIG)
    modes.mode = mode
    return modes


def test_the_table_has_a_row_for_every_mode_and_leads_to_modes_only() -> None:
    assert set(TABLE) == set(Mode) == set(POWER_MODES)
    for row in TABLE.values():
        for cue, edge in row.items():
            assert isinstance(cue, Cue)
            assert isinstance(edge, Edge)
            assert not edge.after or getattr(CONFIG, edge.after) >= 0


def test_a_discharge_passes_every_mode_in_order() -> None:
    modes, passed = Modes(CONFIG), []
    passed += walk(modes, seen(mains=True, percent=100), begin=0, end=5)
    for second in range(6, 200):
        passed += [one.mode for one in modes.hear(seen(mains=False, percent=100 - second / 2), float(second))]
    passed += walk(modes, seen(mains=True, percent=1), begin=200, end=220)

    assert passed == [Mode.ON_GRID, Mode.OFF_GRID, Mode.LOW, Mode.CRITICAL, Mode.ON_GRID]


def test_a_short_cut_changes_nothing() -> None:
    modes = at(Mode.ON_GRID)

    assert not walk(modes, seen(mains=False, percent=90), begin=0, end=0.4, step=0.1)
    assert not walk(modes, seen(mains=True), begin=1, end=30)


def test_an_empty_battery_at_the_cut_still_passes_the_modes_between() -> None:
    assert walk(at(Mode.ON_GRID), seen(mains=False, percent=2), begin=0, end=60) == [
        Mode.OFF_GRID,
        Mode.LOW,
        Mode.CRITICAL,
    ]


@pytest.mark.parametrize(("mode", "inside", "over"), [(Mode.LOW, 33, 36), (Mode.CRITICAL, 13, 16)])
def test_a_level_is_over_at_its_second_threshold(mode: Mode, inside: float, over: float) -> None:
    modes = at(mode)

    assert not walk(modes, seen(mains=False, percent=inside), begin=0, end=100)
    assert walk(modes, seen(mains=False, percent=over), begin=200, end=231) == [SEVERITY[SEVERITY.index(mode) - 1]]


def test_a_charge_that_swings_around_a_threshold_changes_the_mode_once() -> None:
    modes = at(Mode.OFF_GRID)
    passed: list[Mode] = []
    for second in range(600):
        passed += [one.mode for one in modes.hear(seen(mains=False, percent=30 + (second % 4) - 2), float(second))]

    assert passed == []  # never beneath it for as long as it takes
    assert walk(modes, seen(mains=False, percent=29), begin=600, end=610) == [Mode.LOW]


def test_nobody_knowing_leads_to_unknown_and_never_to_plenty() -> None:
    assert not walk(at(Mode.OFF_GRID), SILENT, begin=0, end=29)
    assert walk(at(Mode.OFF_GRID), SILENT, begin=0, end=31) == [Mode.UNKNOWN]


def test_who_stops_hearing_at_the_end_goes_on_saving() -> None:
    assert not walk(at(Mode.CRITICAL), SILENT, begin=0, end=3600, step=10)


def test_a_source_that_will_cut_the_power_is_heeded_at_once() -> None:
    modes = at(Mode.ON_GRID)
    (change,) = modes.hear(seen(mains=True, ending="ups"), 0.0)

    assert (change.mode, change.reason) == (Mode.CRITICAL, "ups will cut the power")


@pytest.mark.parametrize(
    ("values", "config", "mode"),
    [
        ({"battery_volts": 11.4}, {"critical_volts": 11.6, "critical_over_volts": 12.4}, Mode.CRITICAL),
        ({"battery_volts": 11.9}, {"critical_volts": 11.6, "critical_over_volts": 12.4}, None),
        ({"battery_volts": 11.9}, {"low_volts": 12.0, "low_over_volts": 12.6}, Mode.LOW),
    ],
)
def test_a_battery_without_a_gauge_is_judged_by_its_voltage(
    values: dict[str, float], config: dict[str, float], mode: Mode | None
) -> None:
    modes = Modes(ModesConfig(**config))  # type: ignore[arg-type]
    modes.mode = Mode.OFF_GRID
    passed = walk(modes, seen(mains=False, values=values), begin=0, end=12)

    assert (passed[-1] if passed else None) is mode


def test_a_charge_that_is_not_known_leaves_the_level_as_it_is() -> None:
    assert not walk(at(Mode.LOW), seen(mains=False), begin=0, end=600)
    assert not walk(at(Mode.OFF_GRID), seen(mains=False), begin=0, end=600)


def test_few_seconds_left_are_critical_whatever_the_charge_says() -> None:
    modes, passed = at(Mode.LOW), []
    for second in range(10):
        passed += [one.mode for one in modes.hear(seen(mains=False, percent=25), float(second), runtime_s=90 - second)]

    assert passed == [Mode.CRITICAL]


def test_a_house_without_mains_lives_by_its_battery() -> None:
    modes = Modes(ModesConfig(battery_only=True))

    assert walk(modes, seen(mains=True, percent=80), begin=0, end=10) == [Mode.OFF_GRID]
    assert walk(modes, seen(mains=None, percent=20), begin=20, end=30) == [Mode.LOW]


def test_it_says_when_to_look_again() -> None:
    modes = at(Mode.ON_GRID)
    modes.hear(seen(mains=False), 10.0)

    assert modes.due == 10.5
    assert [one.mode for one in modes.hear(seen(mains=False), 10.5)] == [Mode.OFF_GRID]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"low_percent": 50.0}, "each must be less than the next"),
        ({"critical_percent": 32.0, "critical_over_percent": 33.0}, "each must be less"),
        ({"low_volts": 12.0}, "each must be less"),
        ({"off_grid_after_s": float("nan")}, "off_grid_after_s: from 0"),
        ({"unknown_after_s": -1.0}, "unknown_after_s: from 0"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(keys: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModesConfig(**keys)  # type: ignore[arg-type]


def test_the_worse_of_two_counts_and_what_is_not_known_does_not() -> None:
    assert worse(Mode.ON_GRID, Mode.LOW) is Mode.LOW
    assert worse(Mode.UNKNOWN, Mode.ON_GRID) is Mode.ON_GRID
    assert worse(Mode.UNKNOWN, Mode.UNKNOWN) is Mode.UNKNOWN


@given(
    st.lists(
        st.tuples(st.sampled_from([True, False, None]), st.one_of(st.none(), st.floats(0, 100)), st.floats(0, 100)),
        max_size=60,
    )
)
def test_modes_follow_each_other_only_as_the_table_says(said: list[tuple[bool | None, float | None, float]]) -> None:
    modes, now = Modes(CONFIG), 0.0
    for mains, percent, later in said:
        now += later
        before = modes.mode
        for change in modes.hear(seen(mains=mains, percent=percent), now):
            assert change.before is before
            assert change.mode in {edge.to for edge in TABLE[before].values()}
            before = change.mode
