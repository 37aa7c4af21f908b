"""Linux's power supplies: in trees of files, and in a sysfs of umockdev's, which the code cannot tell from the real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from sparkd import DeviceError
from sparkd_plugins.power_monitor.source_power_supply import (
    PowerSupplyConfig,
    PowerSupplySource,
    drained,
    read_all,
    together,
    uevents,
)
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
BATTERY = {
    "type": "Battery",
    "status": "Discharging",
    "capacity": "57",
    "voltage_now": "12050000",
    "current_now": "1000000",
    "energy_full": "50000000",
    "time_to_empty_now": "9000",
    "temp": "312",
}
ADAPTER = {"type": "Mains", "online": "1"}


def tree(root: Path, **supplies: dict[str, str]) -> Path:
    for name, attributes in supplies.items():
        folder = root / "class/power_supply" / name
        folder.mkdir(parents=True, exist_ok=True)
        for attribute, value in attributes.items():
            (folder / attribute).write_text(value + "\n")
    return root


def source(root: Path, **keys: object) -> PowerSupplySource:
    return PowerSupplySource(PowerSupplyConfig(sysfs=root, interval_s=0.1, **keys))  # type: ignore[arg-type]


async def test_a_battery_and_its_adapter(tmp_path: Path) -> None:
    root = tree(tmp_path, AC=ADAPTER, BAT0=BATTERY | {"status": "Charging", "model_name": "X", "manufacturer": "Y"})
    async with watching(source(root)) as heard:
        await heard.until(lambda seen: seen.readings)
        assert heard.whats == ["AC (mains), BAT0 (Y X)"]
        assert (heard.last.mains, heard.last.charge_percent) == (True, 57)
        assert heard.last.battery_watts == pytest.approx(12.05)
        assert heard.last.capacity_wh == pytest.approx(50)
        assert heard.last.temperature_c == pytest.approx(31.2)

        tree(root, AC={"online": "0"}, BAT0={"status": "Discharging"})
        await heard.until(lambda seen: seen.last.mains is False)
        assert heard.last.battery_watts == pytest.approx(-12.05)
        assert heard.last.time_to_empty_s == 9000


async def test_a_change_of_the_mains_is_soon_said_twice(tmp_path: Path) -> None:
    root = tree(tmp_path, AC=ADAPTER)
    async with watching(PowerSupplySource(PowerSupplyConfig(sysfs=root, interval_s=1.0))) as heard:
        await heard.until(lambda seen: len(seen.readings) == 2, limit_s=0.8)  # the first is a change too
        tree(root, AC={"online": "0"})
        await heard.until(lambda seen: seen.last.mains is False)
        count = len(heard.readings)
        await heard.until(lambda seen: len(seen.readings) > count, limit_s=0.8)


def test_a_battery_alone_tells_by_its_status_whether_it_is_fed() -> None:
    for status, mains in (("Discharging", False), ("Charging", True), ("Full", True), ("Unknown", None)):
        assert together({"b": BATTERY | {"status": status}})[0].mains is mains


def test_two_batteries_add_up() -> None:
    large = BATTERY | {"capacity": "10", "energy_full": "150000000", "power_now": "5000000"}
    reading, doubts = together({"a": BATTERY, "b": large})

    assert not doubts
    assert reading.charge_percent == pytest.approx((57 * 50 + 10 * 150) / 200)
    assert reading.battery_watts == pytest.approx(-12.05 - 5)
    assert reading.battery_volts is None


@pytest.mark.parametrize("said", ["", "abc", "1.5", "0x10", "9" * 400, "9" * 5000])
def test_what_is_no_number_is_named_and_left_out(said: str) -> None:
    reading, doubts = together({"b": BATTERY | {"capacity": said}})

    assert reading.charge_percent is None
    assert doubts[0].startswith("b/capacity: a whole number expected")


def test_a_mouse_and_an_empty_slot_are_no_batteries_of_ours(tmp_path: Path) -> None:
    root = tree(tmp_path, mouse=BATTERY | {"scope": "Device"}, slot=BATTERY | {"present": "0"})

    found = read_all(PowerSupplyConfig(sysfs=root))
    assert list(found) == ["slot"]
    assert together(found)[0].charge_percent is None
    assert list(read_all(PowerSupplyConfig(sysfs=root, ignore_scope=True))) == ["mouse", "slot"]


async def test_none_there_or_gone_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no power supply in"):
        await source(tmp_path).watch(Heard())
    root = tree(tmp_path, BAT0=BATTERY)
    heard = Heard()

    def found(what: str) -> None:
        heard.whats.append(what)
        shutil.rmtree(root / "class/power_supply/BAT0")

    heard.found = found  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="no power supply"):
        await source(root).watch(heard)
    assert len(heard.readings) == 1


def test_news_that_overflowed_counts_as_ours() -> None:
    class Full:
        left = 2

        def recv(self, _size: int) -> bytes:
            self.left -= 1
            if self.left:
                raise OSError(105, "No buffer space available")
            raise BlockingIOError

    assert drained(Full()) == ["SUBSYSTEM=power_supply"]  # type: ignore[arg-type]


def test_the_kernels_news_can_be_opened() -> None:
    with uevents() as news:
        assert news is None or isinstance(news, socket.socket)


UMOCKDEV = """
import sys, anyio
import gi
gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev
bed = UMockdev.Testbed.new()
bed.add_device("power_supply", "ac", None, ["type", "Mains", "online", "1"], [])
bed.add_device("power_supply", "bat", None, ["type", "Battery", "status", "Charging", "capacity", "61",
    "voltage_now", "3900000", "current_now", "-500000"], [])
print(bed.get_root_dir() + "/sys", flush=True)
for line in sys.stdin:
    name, attribute, value = line.split()
    bed.set_attribute(f"/sys/devices/{name}", attribute, value)
    print("set", flush=True)
"""


async def test_in_a_sysfs_of_umockdevs(tmp_path: Path) -> None:
    run, python = shutil.which("umockdev-run"), "/usr/bin/python3"
    ready = run and subprocess.run([python, "-c", "import gi; gi.require_version('UMockdev', '1.0')"], check=False)
    if not ready or ready.returncode:
        reason = "needs umockdev (apt-get install umockdev gir1.2-umockdev-1.0 python3-gi)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    script = tmp_path / "bed.py"
    script.write_text(UMOCKDEV.replace("import sys, anyio", "import sys"))
    bed = subprocess.Popen(
        ["umockdev-wrapper", python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert bed.stdin
    assert bed.stdout
    try:
        root = Path(bed.stdout.readline().strip())
        async with watching(source(root)) as heard:
            await heard.until(lambda seen: seen.readings)
            assert (heard.last.mains, heard.last.charge_percent) == (True, 61)
            assert heard.last.battery_amps == pytest.approx(0.5)
            for line in ("ac online 0", "bat status Discharging", "bat capacity 60"):
                bed.stdin.write(line + "\n")
                bed.stdin.flush()
                assert bed.stdout.readline() == "set\n"
            await heard.until(lambda seen: seen.last.charge_percent == 60)
            assert heard.last.mains is False
            assert heard.last.battery_amps == pytest.approx(-0.5)
    finally:
        bed.kill()
        bed.wait()
        bed.stdin.close()
        bed.stdout.close()
