"""The first config of a node, from machines made of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparkd.cli import parser, starting
from sparkd.cli.main import main
from sparkd.config import load_config

PI = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/bus/pci/devices/0001:01:00.0/vendor": "0x1e60\n",
    "sys/bus/usb/devices/1-1/idVendor": "2886\n",
    "sys/bus/usb/devices/1-1/idProduct": "0018\n",
    "dev/video0": "",
    "sys/class/power_supply/BAT0/type": "Battery\n",
}
VM = {"sys/class/dmi/id/sys_vendor": "QEMU\n", "sys/class/dmi/id/product_name": "Standard PC\n"}
INSTALLED = {"node-telemetry", "hailo-inference", "edge-ingest", "stream-sink", "power-monitor"}


def made_of(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def test_a_pi_is_an_edge_with_its_devices(tmp_path: Path) -> None:
    machine = starting.look(made_of(tmp_path, PI))

    assert machine.role == "edge"
    assert machine.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert set(machine.devices) == {"hailo", "respeaker", "camera", "battery"}


def test_a_virtual_machine_is_a_cloud(tmp_path: Path) -> None:
    assert starting.look(made_of(tmp_path, VM)).role == "cloud"
    assert starting.look(made_of(tmp_path, {"proc/cpuinfo": "flags : fpu hypervisor sse\n"})).role == "cloud"
    assert starting.look(tmp_path / "nothing").role == "edge"


def test_only_plugins_that_are_installed_get_a_table(tmp_path: Path) -> None:
    options = parser.build().parse_args(["init", "--name", "control-pc"])
    files = starting.files_for(options, starting.look(made_of(tmp_path, PI)), INSTALLED)

    assert set(files) == {
        "sparkd.toml",
        "sparkd.d/20-node-telemetry.toml",
        "sparkd.d/20-hailo-inference.toml",
        "sparkd.d/20-power-monitor.toml",
    }
    assert "a Hailo is there (PCIe 0001:01:00.0)" in files["sparkd.d/20-hailo-inference.toml"]


@pytest.mark.parametrize("role", ["edge", "cloud"])
def test_what_is_written_is_a_config_that_passes_the_check(
    tmp_path: Path, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sparkd.toml"
    words = ["--config", str(file), "--json", "init", "--role", role, "--name", "first"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["role"] == role

    config = load_config(file)
    assert (config.node.name, config.node.role) == ("first", role)
    assert "node-telemetry" in config.plugins
    assert main(["--config", str(file), "check"]) == 0


def test_a_node_that_listens(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"

    assert main(["--config", str(file), "init", "-y", "--listen", "127.0.0.1:7700"]) == 0
    assert load_config(file).link.listen == "127.0.0.1:7700"


def test_a_config_that_is_there_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text('[node]\nname = "mine"\n')

    assert main(["--config", str(file), "init", "-y"]) != 0
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == '[node]\nname = "mine"\n'
    assert not (tmp_path / "sparkd.d").exists()


def test_a_sample_that_sets_nothing_makes_room_and_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"
    sample = (Path(__file__).parents[2] / "etc" / "sparkd.toml").read_text()
    file.write_text(sample)

    assert main(["--config", str(file), "init", "-y", "--name", "mine"]) == 0
    assert load_config(file).node.name == "mine"
    assert (tmp_path / "sparkd.toml.sample").read_text() == sample


def test_nothing_is_written_without_a_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "sparkd.toml"), "init"]) == 1
    assert "say --yes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_node_can_have_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "sparkd.toml"), "init", "-y", "--name", "Control PC"]) != 0
    assert "lower-case words" in capsys.readouterr().err
