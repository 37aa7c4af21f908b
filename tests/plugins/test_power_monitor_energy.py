"""Whose energy it was: the shares add up to what was measured, whatever happens between."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from sparkd import CallError, CallErrorKind, Context
from sparkd_plugins.power_monitor.energy import BLOCK_S, OTHER, Ledger, Moment, ledger_of
from sparkd_plugins.power_monitor.meter import EnergyMeter, busy_seconds

pytestmark = pytest.mark.anyio
STEP = 10.0


def moment(at: float, watts: float | None, cpu: dict[str, float], busy: float, **units: dict[str, float]) -> Moment:
    return Moment(at, watts, cpu, busy, units)


def test_power_above_idle_is_shared_by_processor_time() -> None:
    ledger = Ledger(0.0)
    ledger.blocks.append(4.0)
    ledger.hear(moment(0, 10.0, {"a": 0, "b": 0}, 0), interval_s=STEP)
    ledger.hear(moment(10, 10.0, {"a": 6, "b": 2}, 10), interval_s=STEP)

    assert ledger.idle_wh == pytest.approx(40 / 3600)
    assert ledger.node_wh == pytest.approx(100 / 3600)
    assert ledger.services_wh == {
        "a": pytest.approx(36 / 3600),
        "b": pytest.approx(12 / 3600),
        OTHER: pytest.approx(12 / 3600),
    }
    assert ledger.watts["a"] == pytest.approx(3.6)


def test_idle_is_the_least_that_ten_minutes_used() -> None:
    ledger, at = Ledger(0.0), 0.0
    for watts in (6.0, 3.0, 9.0):
        for _ in range(int(BLOCK_S / STEP) + 1):
            at += STEP
            ledger.hear(moment(at, watts, {"a": at}, at), interval_s=STEP)

    assert ledger.idle_watts == pytest.approx(3.0, abs=0.1)


def test_gaps_are_not_filled() -> None:
    ledger = Ledger(0.0)
    for at, watts in ((0, 5.0), (10, None), (20, 5.0), (3600, 5.0), (3610, 5.0)):
        ledger.hear(moment(at, watts, {"a": at}, at), interval_s=STEP)

    assert ledger.measured_s == 10
    assert ledger.node_wh == pytest.approx(50 / 3600)


def test_a_service_that_began_anew_is_charged_for_what_it_did_since() -> None:
    ledger = Ledger(0.0)
    ledger.hear(moment(0, 5.0, {"a": 1000}, 0), interval_s=STEP)
    ledger.hear(moment(10, 5.0, {"a": 2, "new": 500}, 2), interval_s=STEP)

    assert ledger.services_wh == {"a": pytest.approx(50 / 3600)}


def test_what_a_unit_costs() -> None:
    ledger = Ledger(0.0)
    ledger.hear(moment(0, 5.0, {"hailo": 0, "x": 0}, 0, inference={"hailo": 100.0}), interval_s=STEP)
    ledger.hear(moment(10, 5.0, {"hailo": 4, "x": 1}, 5, inference={"hailo": 120.0}), interval_s=STEP)

    assert ledger.units["inference"].joules / ledger.units["inference"].count == pytest.approx(2.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 40),
            st.one_of(st.none(), st.floats(0, 500)),
            st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6), max_size=3),
            st.floats(0, 1e7),
        ),
        max_size=30,
    )
)
def test_the_shares_add_up(steps: list[tuple[float, float | None, dict[str, float], float]]) -> None:
    ledger, at = Ledger(0.0), 0.0
    for later, watts, cpu, busy in steps:
        at += later
        ledger.hear(moment(at, watts, cpu, busy), interval_s=STEP)

    whole = ledger.idle_wh + sum(ledger.services_wh.values())
    assert math.isclose(whole, ledger.node_wh, rel_tol=1e-9, abs_tol=1e-9)
    assert all(share >= -1e-12 for share in (*ledger.services_wh.values(), ledger.idle_wh))
    assert ledger_of(json.loads(json.dumps(ledger.plain()))).plain() == ledger.plain()


@pytest.mark.parametrize(
    "plain", [None, [], {}, {"since": "x"}, {"since": -1}, {"since": 1, "node_wh": math.nan}, {"since": True}]
)
def test_a_damaged_account_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        ledger_of(plain)


def test_busy_seconds_of_this_machine_and_of_a_damaged_file(tmp_path: Path) -> None:
    assert busy_seconds(Path("/proc/stat")) > 0
    (tmp_path / "stat").write_text("cpu x\n")
    assert busy_seconds(tmp_path / "stat") == 0


class Asked:
    """The part of a Context that the meter uses; its core answers from `cpu`, or not at all."""

    def __init__(self) -> None:
        self.metrics = CollectorRegistry()
        self.cpu: dict[str, float] | None = {"it": 1.0}
        self.lines: list[str] = []
        self.log = SimpleNamespace(
            debug=lambda text, **_: self.lines.append(text), warning=lambda text, **_: self.lines.append(text)
        )

    async def request(self, method: str, params: object = None, **_: object) -> Any:
        if self.cpu is None:
            raise CallError(CallErrorKind.UNAVAILABLE, "not now")
        self.cpu["it"] += 0.5
        if method == "recorder.counters":
            return {"it": {"sparkd_inference_pictures": self.cpu["it"] * 10}}
        return {"services": [{"name": name, "ever": {"cpu_s": total}} for name, total in self.cpu.items()]}

    def meter(self, file: Path) -> EnergyMeter:
        return EnergyMeter(
            cast("Context[Any]", self),
            lambda: 6.0,
            interval_s=0.05,
            file=file,
            units={"inference": "sparkd_inference_pictures"},
        )


async def test_the_meter_keeps_its_account_over_a_restart_and_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "energy.json"
    asked = Asked()
    with anyio.move_on_after(0.5):
        await asked.meter(file).run()
    assert json.loads(file.read_text())["node_wh"] > 0

    before, asked = json.loads(file.read_text()), Asked()
    asked.cpu = None
    meter = asked.meter(file)
    with anyio.move_on_after(0.2):
        await meter.run()
    assert meter.report().node_watt_hours == pytest.approx(before["node_wh"])
    assert meter.report().per_unit_joules["inference"] > 0
    page = generate_latest(asked.metrics).decode()
    assert 'sparkd_energy_joules_total{user="it"}' in page
    assert 'sparkd_energy_joules_per_unit{unit="inference"}' in page

    file.write_text("{")
    asked = Asked()
    with anyio.move_on_after(0.2):
        await asked.meter(file).run()
    assert file.with_suffix(".damaged").read_text() == "{"
    assert "energy account damaged, beginning anew" in asked.lines
