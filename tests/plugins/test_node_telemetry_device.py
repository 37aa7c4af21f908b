"""Reading a machine: this one, and folders that stand in for the sysfs of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sparkd import DeviceError
from sparkd_plugins.node_telemetry.config import NodeTelemetryConfig
from sparkd_plugins.node_telemetry.device import Machine, cpu_mhz, temperatures, throttled


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


PI_5 = {
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "48300\n",
    "class/hwmon/hwmon0/name": "cpu_thermal\n",
    "class/hwmon/hwmon0/temp1_input": "48300\n",
    "class/hwmon/hwmon1/name": "rp1_adc\n",
    "class/hwmon/hwmon1/temp1_input": "44100\n",
    "class/hwmon/hwmon2/name": "nvme\n",
    "class/hwmon/hwmon2/temp1_input": "38850\n",
    "class/hwmon/hwmon2/temp1_label": "Composite\n",
    "class/hwmon/hwmon3/name": "rpi_volt\n",
    "class/hwmon/hwmon3/in0_lcrit_alarm": "0\n",
    "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000\n",
    "devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}


def test_a_pi_s_sensors_are_read_and_none_counted_twice(tmp_path: Path) -> None:
    sysfs = write(tmp_path, PI_5)

    assert temperatures(sysfs) == {"cpu-thermal": 48.3, "rp1_adc": 44.1, "nvme Composite": 38.85}
    assert throttled(sysfs) == 0x50005
    assert cpu_mhz(sysfs) == 1500.0


def test_a_machine_without_sensors_has_none(tmp_path: Path) -> None:
    assert temperatures(tmp_path) == {}
    assert throttled(tmp_path) is None
    assert cpu_mhz(tmp_path) is None


def test_sensors_that_are_not_there_or_talk_nonsense_are_left_out(tmp_path: Path) -> None:
    sysfs = write(
        tmp_path,
        {
            "class/thermal/thermal_zone0/type": "x86_pkg_temp",
            "class/thermal/thermal_zone0/temp": "-273000",
            "class/thermal/thermal_zone1/type": "acpitz",
            "class/thermal/thermal_zone1/temp": "n/a",
            "class/thermal/thermal_zone2/type": "acpitz",
            "class/thermal/thermal_zone2/temp": "27800",
            "class/thermal/thermal_zone3/type": "acpitz",
            "class/thermal/thermal_zone3/temp": "29800",
            "class/hwmon/hwmon0/name": "odd",
            "class/hwmon/hwmon0/temp1_input": "65535000",
        },
    )
    (sysfs / "class/hwmon/hwmon0/temp2_input").mkdir()  # a read fails with EISDIR, as a sleeping sensor's does

    assert temperatures(sysfs) == {"acpitz": 27.8, "acpitz 2": 29.8}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"devices/platform/soc/soc:firmware/get_throttled": "0\n"}, 0),
        ({"devices/platform/soc/soc:firmware/get_throttled": "80008\n"}, 0x80008),
        ({"devices/platform/soc/soc:firmware/get_throttled": "0x50000\n"}, 0x50000),
        ({"devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "4\n"}, 4),
        ({"devices/platform/soc/soc:firmware/get_throttled": "error\n"}, None),
        ({"class/hwmon/hwmon1/name": "rpi_volt\n", "class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"}, 1),
        ({"class/hwmon/hwmon1/name": "rpi_volt\n", "class/hwmon/hwmon1/in0_lcrit_alarm": "0\n"}, 0),
        ({"class/hwmon/hwmon1/name": "rpi_volt\n"}, None),
        ({"class/hwmon/hwmon1/name": "other\n", "class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"}, None),
    ],
)
def test_throttling_is_read_where_the_firmware_tells(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    assert throttled(write(tmp_path, files)) == expected


def test_this_machine_can_be_read_twice(tmp_path: Path) -> None:
    machine = Machine(NodeTelemetryConfig(sysfs=write(tmp_path, PI_5)))

    since_boot, sample = machine.sample(), machine.sample()

    first, telemetry = since_boot.telemetry, sample.telemetry
    assert 0 < telemetry.memory_available_bytes <= telemetry.memory_total_bytes
    assert "/" in [disk.mount for disk in telemetry.disks]
    assert len(telemetry.cpu_percent_each) == len(first.cpu_percent_each) > 0
    assert all(0.0 <= percent <= 100.0 for percent in [telemetry.cpu_percent, *telemetry.cpu_percent_each])
    assert first.cpu_percent > 0.0
    assert first.uptime_s <= telemetry.uptime_s
    assert "lo" not in [interface.name for interface in telemetry.interfaces]
    assert telemetry.temperatures_c["cpu-thermal"] == 48.3
    assert sample.throttled == 0x50005


def test_a_missing_psutil_is_a_state_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)

    with pytest.raises(DeviceError) as caught:
        Machine(NodeTelemetryConfig())

    assert caught.value.remedy == "pip install 'sparkd[telemetry]'"


def test_importing_the_plugin_imports_no_sdk() -> None:
    script = "import sys, sparkd_plugins.node_telemetry as p; p.sparkd_services(); print('psutil' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
