"""power-monitor in a real daemon: a recorded discharge replayed, and what comes of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli import main
from sparkd.testing import Node
from sparkd_plugins.power_monitor.recording import Row, read
from tests.plugins.discharge import six_hours
from tests.system.test_budgets import node
from tests.system.watching import QUIET, plugin, runs, service, until

FAST = """
[plugins.power-monitor]
sample_interval_s = 0.2
restore_step_s = 0.0
speaks_for_site = true

[plugins.power-monitor.modes]
off_grid_after_s = 0.05
on_grid_after_s = 0.05
low_after_s = 0.05
critical_after_s = 0.05
recover_after_s = 0.5
critical_runtime_s = 0.0
"""
SPEED = 2000.0


def waits(name: str) -> str:
    offer = "energy=EnergyClass.DEFERRABLE"
    return plugin(QUIET, name=name, more="from sparkd import EnergyClass", offer=offer)


@contextmanager
def powered(more: str = "") -> Iterator[Node]:
    with node(FAST + more) as home:
        (home.plugins / "it.py").write_text(plugin(QUIET))
        (home.plugins / "trainer.py").write_text(waits("trainer"))
        yield home


def mode(home: Node) -> str:
    return str(home.call("power.status")["mode"])


def comes_to(home: Node, wanted: str, *, limit_s: float = 20.0) -> None:
    until(lambda: mode(home), lambda found: found == wanted, limit_s=limit_s)


def actions(home: Node) -> list[tuple[str, str, str, str]]:
    return [(one["mode"], one["action"], one["target"], one["state"]) for one in home.call("power.status")["actions"]]


def recording(home: Node, speed: float = SPEED) -> str:
    file = home.root / "discharge.csv"
    file.write_text(six_hours())
    return f'[plugins.power-monitor.csv.ups]\nfile = "{file}"\nspeed = {speed}\ninterval_s = 0.2\n'


def with_tables(home: Node, tables: str) -> None:
    home.config_file.write_text(home.config_file.read_text() + tables)


def test_six_hours_of_discharge_in_seconds_do_every_deed_in_order_and_once() -> None:
    with powered() as home:
        with_tables(home, recording(home))
        home.start()
        until(lambda: actions(home), lambda found: ("on-grid", "restore", "trainer", "done") in found, limit_s=60)

        assert actions(home) == [
            ("off-grid", "shed", "trainer", "done"),
            ("low", "throttle", "it", "done"),
            ("critical", "shed", "it", "done"),
            ("on-grid", "unthrottle", "it", "done"),
            ("on-grid", "restore", "it", "done"),
            ("on-grid", "restore", "trainer", "done"),
        ]
        assert runs(home, "trainer")["restarts"] == 0
        seen = home.call("power.status")
        assert (seen["sources"][0]["garbage"], seen["site_mode"]) == (0, "on-grid")


def test_a_dry_run_says_all_of_it_and_does_nothing() -> None:
    more = 'dry_run = true\n[plugins.power-monitor.policy.critical]\nshed = ["normal"]\nshutdown = "poweroff"\n'
    with powered() as home:
        text = home.config_file.read_text().replace(
            "[plugins.power-monitor]\n", "[plugins.power-monitor]\ndry_run = true\n"
        )
        home.config_file.write_text(text + more.removeprefix("dry_run = true\n"))
        with_tables(home, recording(home))
        home.start()
        pid = runs(home, "trainer")["pid"]
        until(lambda: actions(home), lambda found: ("on-grid", "restore", "trainer", "dry-run") in found, limit_s=60)

        done = actions(home)
        assert done[0] == ("off-grid", "shed", "trainer", "dry-run")
        assert ("critical", "shutdown", "home", "planned") in done
        assert {state for _, _, _, state in done} <= {"dry-run", "planned", "failed", "cancelled"}
        assert service(home, "trainer")["pid"] == pid


def test_an_operator_holds_a_mode_and_lets_go() -> None:
    with powered() as home:
        home.start()
        runs(home, "trainer")
        assert mode(home) == "unknown"

        held = home.call("power.hold", mode="off-grid", seconds=60.0)
        assert (held["mode"], held["held"], held["reason"]) == ("off-grid", True, "held by an operator")
        until(lambda: service(home, "trainer"), lambda found: found["state"] == "shed")
        planned = home.call("power.plan", mode="on-grid")
        assert [(one["action"], one["target"]) for one in planned] == [("restore", "trainer")]
        home.call("power.hold", mode="on-grid", seconds=60.0)
        runs(home, "trainer")
        assert home.call("power.release")["held"] is False


def test_a_power_monitor_that_is_killed_goes_on_where_it_was() -> None:
    with powered() as home:
        file = home.root / "low.csv"
        file.write_text("t_s,mains,charge_percent\n0,0,20\n")
        with_tables(home, f'[plugins.power-monitor.csv.ups]\nfile = "{file}"\ninterval_s = 0.1\n')
        home.start()
        comes_to(home, "low")
        until(lambda: [one[:3] for one in actions(home)], lambda done: ("low", "throttle", "it") in done)
        os.kill(service(home, "power-monitor")["pid"], signal.SIGKILL)
        until(lambda: service(home, "power-monitor")["restarts"], bool)
        runs(home, "power-monitor")
        comes_to(home, "low")
        assert service(home, "trainer")["state"] == "shed"
        file.write_text("t_s,mains,charge_percent\n0,1,20\n")
        home.call("plugins.restart", name="power-monitor", timeout_s=30.0)
        runs(home, "trainer")
        until(lambda: service(home, "it")["budget"], lambda budget: budget is None)
        wanted = [("restore", "trainer"), ("unthrottle", "it")]  # each is noted when it is done
        until(lambda: sorted(one[1:3] for one in actions(home)), lambda done: done == wanted)


def test_people_see_it(capsys: pytest.CaptureFixture[str]) -> None:
    with powered() as home:
        with_tables(home, recording(home, speed=100.0).replace("csv.ups", "csv.gauge"))
        home.start()
        comes_to(home, "on-grid")

        def said(*words: str) -> str:
            assert main(["--socket", str(home.socket_path), "power", *words]) == 0
            return capsys.readouterr().out

        shown = said()
        assert "home is on-grid: mains there (gauge)" in shown
        assert "gauge" in shown
        assert "Wh" in shown
        assert "trainer" in said("plan", "critical")
        assert json.loads(said("plan", "on-grid", "--json")) == []
        assert "held by an operator" in said("hold", "off-grid", "--for", "30s")
        assert "home is on-grid" in said("release")
        assert "power above idle" in said("energy")


def test_work_that_can_wait_and_comes_late_waits_too() -> None:
    with powered() as home:
        home.start()
        home.call("power.hold", mode="off-grid", seconds=60.0)
        until(lambda: service(home, "trainer"), lambda found: found.get("state") == "shed")
        (home.plugins / "late.py").write_text(waits("late"))
        until(lambda: service(home, "late"), lambda found: found.get("state") == "shed", limit_s=20)


def test_what_is_measured_is_recorded_and_can_be_played_again() -> None:
    with powered() as home:
        tables = recording(home, speed=200.0)
        text = home.config_file.read_text()
        file = home.root / "again.csv"
        home.config_file.write_text(
            text.replace("[plugins.power-monitor]\n", f'[plugins.power-monitor]\nrecord = "{file}"\n')
        )
        with_tables(home, tables)
        home.start()
        until(lambda: file.read_text().count("\n") if file.exists() else 0, lambda lines: lines > 5)
        home.stop()

        with file.open() as lines:
            rows = list(read(lines))
        assert all(isinstance(row, Row) and row.reading.mains is not None for row in rows[1:])


def test_a_drop_in_can_measure() -> None:
    source = """\
from sparkd import PowerReading, PowerSource

class Meter:
    async def read(self) -> PowerReading:
        text = (Path(__file__).parent.parent / "mains").read_text()
        return PowerReading(mains=text == "1", charge_percent=80.0, load_watts=5.0)
"""
    body = "await ctx.serve(PowerSource, Meter())\ntask_status.started()\nawait anyio.sleep_forever()"
    text = plugin(body, name="meter", more="from pathlib import Path\n" + source, offer="serves=(PowerSource,)")
    with powered() as home:
        with_tables(home, '[plugins.power-monitor.service.meter]\nservice = "meter"\ninterval_s = 0.1\n')
        (home.config_file.parent / "mains").write_text("1")
        (home.plugins / "meter.py").write_text(text)
        home.start()
        comes_to(home, "on-grid")
        (home.config_file.parent / "mains").write_text("0")
        comes_to(home, "off-grid")
        (home.plugins / "meter.py").unlink()
        home.call("plugins.rescan", timeout_s=30.0)
        lost = until(lambda: home.call("power.status")["sources"][0], lambda one: one["state"] == "lost", limit_s=20)
        assert "meter" in lost["reason"]
        assert mode(home) == "off-grid"


def test_sources_that_cannot_be_opened_are_named_with_what_to_do() -> None:
    with powered() as home:
        with_tables(home, f'[plugins.power-monitor.csv.old]\nfile = "{home.root / "none.csv"}"\n')
        home.start()
        seen: dict[str, Any] = until(
            lambda: service(home, "power-monitor"), lambda one: one["state"] == "degraded", limit_s=20
        )
        assert "old: " in seen["reason"]
        assert "No such file" in seen["reason"]
        assert seen["remedy"] == "mend the key file"
        assert Path(home.state).exists()
