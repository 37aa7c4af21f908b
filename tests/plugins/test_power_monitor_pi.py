"""The Pi's firmware, by a stand-in for `vcgencmd` and trees of files."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError
from sparkd_plugins.power_monitor import pi_firmware
from sparkd_plugins.power_monitor.source_pi import PiConfig, PiSource
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
VOLTS = (3.7, 3.31, 1.8, 1.1, 0.6, 1.1, 0.8, 0.72, 3.3, 3.3, 0.8, 5.1)
ADC = "".join(
    f" {name}_A current({at})=0.10000000A\n{name}_V volt({at + 8})={volts:.8f}V\n"
    for at, (name, volts) in enumerate(zip(pi_firmware.RAILS, VOLTS, strict=True))
)
ADC += "     EXT5V_V volt(24)=5.15096000V\n      BATT_V volt(25)=0.00390720V\n"


def firmware(folder: Path, *, throttled: str = "throttled=0x0", adc: str = ADC, code: int = 0) -> PiConfig:
    """Write a stand-in for vcgencmd that says what the files beside it hold."""
    program = folder / "vcgencmd"
    program.write_text(f'#!/bin/sh\ncat "{folder}/$1"\nexit {code}\n')
    program.chmod(0o755)
    (folder / "get_throttled").write_text(throttled + "\n")
    (folder / "pmic_read_adc").write_text(adc)
    return PiConfig(
        vcgencmd=str(program), interval_s=0.2, answer_limit_s=1.0, sysfs=folder / "sys", device_tree=folder / "tree"
    )


def shows(under: object, heard: Heard) -> bool:
    return heard.last.under_voltage is under


async def test_voltage_load_and_who_it_is(tmp_path: Path) -> None:
    power = tmp_path / "tree/chosen/power"
    power.mkdir(parents=True)
    (power / "max_current").write_bytes((5000).to_bytes(4, "big"))
    (tmp_path / "tree/model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    async with watching(PiSource(firmware(tmp_path))) as heard:
        await heard.until(lambda seen: seen.readings)

    assert heard.whats == ["Raspberry Pi 5 Model B Rev 1.0, supply of 5 A"]
    assert heard.last.supply_volts == pytest.approx(5.15096)
    assert heard.last.load_watts == pytest.approx(sum(VOLTS) * 0.1 * 1.1451 + 0.5879)
    assert (heard.last.mains, heard.last.under_voltage, heard.last.throttled) == (None, False, 0)


async def test_under_voltage_by_firmware_or_kernel_is_counted_as_it_begins(tmp_path: Path) -> None:
    hwmon = tmp_path / "sys/class/hwmon/hwmon0"
    hwmon.mkdir(parents=True)
    (hwmon / "name").write_text("rpi_volt\n")
    (hwmon / "in0_lcrit_alarm").write_text("0\n")
    async with watching(PiSource(firmware(tmp_path))) as heard:
        await heard.until(lambda seen: seen.readings)
        for alarm, under, count in (("1", True, "1"), ("0", False, "1"), ("1", True, "2")):
            (hwmon / "in0_lcrit_alarm").write_text(alarm + "\n")
            await heard.until(partial(shows, under))
            assert heard.last.detail["under_voltage_seen"] == count
        (hwmon / "in0_lcrit_alarm").write_text("0\n")
        await heard.until(lambda seen: seen.last.under_voltage is False)
        (tmp_path / "get_throttled").write_text("throttled=0x50005\n")
        await heard.until(lambda seen: seen.last.throttled == 0x50005)
        assert heard.last.under_voltage is True


async def test_a_pi_without_that_meter_still_tells_the_rest(tmp_path: Path) -> None:
    config = firmware(tmp_path, adc='error=1 error_msg="Command not registered"\n')
    async with watching(PiSource(config)) as heard:
        await heard.until(lambda seen: seen.readings)

    assert (heard.last.supply_volts, heard.last.load_watts, heard.last.throttled) == (None, None, 0)


@pytest.mark.parametrize(
    ("throttled", "code", "why"),
    [
        ('error=1 error_msg="Command not registered"', 0, r"Command not registered \(error 1\)"),
        ("VCHI initialization failed", 255, "VCHI initialization failed"),
        ("throttled=", 0, "cannot be understood"),
        ("throttled=0xzz", 0, "cannot be understood"),
    ],
)
async def test_what_the_firmware_cannot_tell_is_named(tmp_path: Path, throttled: str, code: int, why: str) -> None:
    heard = Heard()
    with pytest.raises(DeviceError, match=why):
        await PiSource(firmware(tmp_path, throttled=throttled, code=code)).watch(heard)
    assert not heard.readings


async def test_a_program_that_hangs_is_killed_and_one_that_is_not_there_named(tmp_path: Path) -> None:
    config = firmware(tmp_path)
    Path(config.vcgencmd).write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(DeviceError, match="hangs"):
        await PiSource(config).watch(Heard())
    with pytest.raises(DeviceError, match="cannot be run"):
        await PiSource(PiConfig(vcgencmd=str(tmp_path / "none"))).watch(Heard())


async def test_a_damaged_answer_is_garbage_and_the_next_one_counts(tmp_path: Path) -> None:
    async with watching(PiSource(firmware(tmp_path, adc=ADC[:200]))) as heard:
        await heard.until(lambda seen: seen.bad)
        (tmp_path / "pmic_read_adc").write_text(ADC)
        await heard.until(lambda seen: seen.readings)

    assert heard.bad[0].startswith("pmic_read_adc: NAME_V volt(N)=xV expected")


@given(st.text(max_size=80))
def test_whatever_it_says_is_understood_or_refused(said: str) -> None:
    for parse in (pi_firmware.throttled, pi_firmware.rails):
        with suppress(ValueError):
            parse(said)
