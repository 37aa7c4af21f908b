"""`sparkctl doctor --hailo`: what the library says, with the stand-in for it in a real process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.config import Config, PluginTable, UnitTable
from sparkd.doctor import HAILO_CHECKS, Finding, Scene, Verdict, accelerator, examine
from sparkd.doctor.scene import run
from sparkd.service import Isolation
from sparkd.testing.hailo import Board
from tests.doctor.test_doctor import DRIVER, HAILO, Machine


@pytest.fixture
def pi(tmp_path: Path) -> Machine:
    return Machine(tmp_path).has({**HAILO, **DRIVER})


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board(tmp_path / "board.json")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def says(machine: Machine) -> Finding:
    scene = machine.scene()
    real = Scene(config=scene.config, places=scene.places, root=scene.root, run=run)
    ((_, finding),) = examine(real, accelerator.CHECKS)
    return finding


def test_a_device_in_good_health_says_what_it_is(pi: Machine, board: Board) -> None:
    found = says(pi)
    assert found.verdict is Verdict.OK
    assert found.text == "0001:01:00.0: HAILO8L, driver 4.23.0, firmware 4.23.0, library 4.23.0, 45 degrees"
    assert not list(Path.cwd().glob("hailort.log"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"firmware": [4, 20, 0]}, "versions differ"),
        ({"temperature_c": 99.0}, "it is hot"),
        ({"devices": []}, "library 4.23.0 finds no device"),
        ({"faults": {"scan": {"code": 64, "after": 0, "times": 9}}}, "HailoRTStatusException: 64"),
        ({"faults": {"identify": {"code": 62, "after": 0, "times": 9}}}, "HailoCommunicationClosedException"),
        ({"import": "no library"}, "cannot import hailo_platform: MissingPyHRTLib"),
    ],
)
def test_what_is_wrong_with_it_is_a_problem(pi: Machine, board: Board, change: dict[str, object], text: str) -> None:
    board.change(**change)
    found = says(pi)
    assert found.verdict is Verdict.PROBLEM
    assert text in found.text
    assert found.remedy


def test_a_machine_without_library_and_device_is_none_to_judge(tmp_path: Path) -> None:
    found = says(Machine(tmp_path))
    assert found.verdict is Verdict.SKIPPED
    assert "hailo-all" in found.remedy


def test_a_library_that_hangs_is_told(pi: Machine) -> None:
    ((_, found),) = examine(pi.scene(), accelerator.CHECKS)  # its commands answer nothing
    assert "did not answer" in found.text


def test_the_python_of_the_plugins_unit_is_asked(pi: Machine) -> None:
    asked: list[Sequence[str]] = []

    def note(command: Sequence[str]) -> str:
        asked.append(command)
        return 'a warning\n{"library": "4.23.0", "devices": []}'

    unit = UnitTable(python=Path("/usr/bin/python3"))
    for table in (None, PluginTable(isolation=Isolation.UNIT, unit=unit)):
        pi.config = Config(plugins={} if table is None else {"hailo-inference": table})
        scene = pi.scene()
        examine(Scene(config=scene.config, places=scene.places, root=scene.root, run=note), accelerator.CHECKS)
    assert [command[0] for command in asked] == [sys.executable, "/usr/bin/python3"]


def test_the_option_looks_at_the_accelerator_alone(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RUNTIME", "STATE", "CACHE", "CONFIGURATION"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path))
    code = main(["doctor", "--hailo"])
    said = capsys.readouterr().out
    assert "hailo library: 0001:01:00.0: HAILO8L" in said
    assert "disk" not in said
    names = {line[2:].partition(":")[0] for line in said.splitlines() if line[:1] in "✓·▲● " and line[2:3] != " "}
    assert names - {"config"} <= {check.name for check in HAILO_CHECKS} | {"problems"}
    assert code == 0
