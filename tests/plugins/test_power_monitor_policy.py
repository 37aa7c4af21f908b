from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from sparkd import EnergyClass
from sparkd_plugins.power_monitor.modes import SEVERITY, Mode
from sparkd_plugins.power_monitor.policy import (
    ModePolicy,
    ShutdownConfig,
    Turn,
    Wanted,
    back,
    default_policies,
    turn_of,
    wanted,
)


@dataclass(frozen=True)
class One:
    name: str
    energy: EnergyClass


SERVICES = [
    One("power-monitor", EnergyClass.ESSENTIAL),
    One("trainer", EnergyClass.DEFERRABLE),
    One("camera", EnergyClass.NORMAL),
    One("cloud-uplink", EnergyClass.NORMAL),
    One("node-telemetry", EnergyClass.ESSENTIAL),
]
ALWAYS = dict.fromkeys(SEVERITY, math.inf)


def asked(mode: Mode, policies: dict[str, ModePolicy] | None = None, lasted: dict[Mode, float] = ALWAYS) -> Wanted:
    found = wanted(mode, lasted, policies if policies is not None else default_policies(), SERVICES)
    assert found is not None
    return found


def test_by_default_work_that_can_wait_goes_first_and_no_machine_goes_off() -> None:
    assert asked(Mode.ON_GRID) == Wanted()
    assert asked(Mode.OFF_GRID).shed == ("trainer",)
    assert asked(Mode.LOW) == Wanted(("trainer",), {"camera": 50.0, "cloud-uplink": 50.0})
    assert asked(Mode.CRITICAL) == Wanted(("trainer", "camera", "cloud-uplink"))


def test_in_unknown_nothing_is_done_and_nothing_undone() -> None:
    assert wanted(Mode.UNKNOWN, ALWAYS, default_policies(), SERVICES) is None


def test_what_brings_the_others_back_stays() -> None:
    everything: dict[str, ModePolicy] = {
        Mode.LOW: ModePolicy(shed=["normal", "deferrable", "node-telemetry"], throttle={"essential": 10.0})
    }

    assert "power-monitor" not in asked(Mode.LOW, everything).shed
    assert asked(Mode.LOW, everything).shed == ("trainer", "camera", "cloud-uplink", "node-telemetry")
    assert not asked(Mode.LOW, everything).throttle


def test_a_part_waits_until_its_mode_has_lasted() -> None:
    policies: dict[str, ModePolicy] = {
        Mode.OFF_GRID: ModePolicy(shed=["deferrable"], after_s=60),
        Mode.LOW: ModePolicy(shutdown="poweroff"),
    }

    early = asked(Mode.OFF_GRID, policies, {Mode.OFF_GRID: 20.0})
    assert (early.shed, early.next_s) == ((), 40.0)
    late = asked(Mode.LOW, policies, {Mode.OFF_GRID: 61.0, Mode.LOW: 0.0})
    assert (late.shed, late.shutdown, late.next_s) == (("trainer",), "poweroff", None)


def test_who_went_last_comes_back_first() -> None:
    names = ["trainer", "camera", "cloud-uplink", "node-telemetry"]

    assert back(names, SERVICES) == ["node-telemetry", "camera", "cloud-uplink", "trainer"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"shed": ["essential"]}, "never shed as a class"),
        ({"shed": ["power-monitor"]}, "brings the others back"),
        ({"throttle": {"camera": 0.0}}, "throttle.camera: from 1"),
        ({"throttle": {"core": 50.0}}, "steers the others"),
        ({"after_s": math.inf}, "after_s: from 0"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModePolicy(**keys)  # type: ignore[arg-type]


def test_clients_go_before_the_nas() -> None:
    config = ShutdownConfig(order=[["spark-agent", "control-pc"], ["nas"]], asks=["nas"])

    assert turn_of("control-pc", config) == Turn((), ("nas",))
    assert turn_of("nas", config) == Turn((("spark-agent", "control-pc"),), ())
    assert turn_of("stranger", config).before == ()


def test_an_order_names_each_node_once() -> None:
    with pytest.raises(ValueError, match="nas more than once"):
        ShutdownConfig(order=[["nas"], ["nas"]])
    with pytest.raises(ValueError, match="must stand in order"):
        ShutdownConfig(order=[["nas"]], asks=["other"])
