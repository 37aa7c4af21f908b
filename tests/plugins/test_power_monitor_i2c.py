"""Chips on I2C, by their registers beneath smbus2."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
import smbus2
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError
from sparkd.testing.i2c import Bus, Chip
from sparkd_plugins.power_monitor import i2c_chips
from sparkd_plugins.power_monitor.i2c_chips import CHIPS, WrongChipError, check, electric, gauge, signed, swapped
from sparkd_plugins.power_monitor.source_i2c import I2cConfig, I2cSource
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
INA219 = {0: 0x399F, 1: 0xFF38, 2: (3000 << 3) | 2}  # -2 mV, 12 V
INA226 = {0xFE: 0x5449, 0xFF: 0x2260, 1: 800, 2: 4096}  # 2 mV, 5.12 V
INA260 = {0xFE: 0x5449, 0xFF: 0x2270, 1: 0xFF9C, 2: 4096}  # -125 mA
INA3221 = {0xFE: 0x5449, 0xFF: 0x3220, 3: 500 << 3, 4: 640 << 3}  # channel 2: 20 mV, 5.12 V
MAX17048 = {0x08: 0x0012, 0x02: 0xC350, 0x04: 0x5780}  # 3.906 V, 87.5 %
MAX17040 = {0x08: 0x0002, 0x02: 0xC350 & 0xFFF0, 0x04: 0x5780}


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    made = Bus()
    monkeypatch.setattr(smbus2, "SMBus", made.opener)
    yield made
    assert made.opened == 0


def source(chip: str, **keys: Any) -> I2cSource:
    return I2cSource(I2cConfig(chip=chip, interval_s=0.1, **keys))  # type: ignore[arg-type]


async def test_a_meter_at_a_battery(bus: Bus) -> None:
    chip = bus.chips[0x42] = Chip(dict(INA219))
    async with watching(source("ina219", address=0x42, empty_volts=9.0, full_volts=12.6)) as heard:
        await heard.until(lambda seen: seen.readings)
        assert heard.whats == ["INA219, configuration 0x399f at 0x42 on /dev/i2c-1"]
        assert heard.last.battery_volts == pytest.approx(12.0)
        assert heard.last.battery_amps == pytest.approx(-0.02)
        assert heard.last.battery_watts == pytest.approx(-0.24)
        assert heard.last.charge_percent == pytest.approx(83.33, abs=0.01)

        chip.registers[2] |= 1
        await heard.until(lambda seen: seen.bad)
        assert "overflow" in heard.bad[-1]
        chip.registers[2] = INA219[2]
        chip.registers[5] = 0  # a calibration that is lost
        count = len(heard.readings)
        await heard.until(lambda seen: len(seen.readings) > count)
        assert heard.last.battery_amps == pytest.approx(-0.02)


async def test_a_gauge(bus: Bus) -> None:
    bus.chips[0x36] = Chip(MAX17048)
    async with watching(source("max17048", capacity_wh=37.0)) as heard:
        await heard.until(lambda seen: seen.readings)

    assert heard.last.battery_volts == pytest.approx(3.90625)
    assert (heard.last.charge_percent, heard.last.capacity_wh, heard.last.mains) == (87.5, 37.0, None)


async def test_what_a_meter_sits_on_decides_the_values(bus: Bus) -> None:
    bus.chips[0x40] = Chip(INA226)
    async with watching(source("ina226", measures="load", shunt_ohms=0.01)) as heard:
        await heard.until(lambda seen: seen.readings)
    assert heard.last.load_watts == pytest.approx(5.12 * 0.2)
    assert heard.last.battery_watts is None
    async with watching(source("ina226", measures="solar", shunt_ohms=0.01, invert=True)) as heard:
        await heard.until(lambda seen: seen.readings)
    assert heard.last.solar_watts == pytest.approx(-5.12 * 0.2)


async def test_a_bus_error_is_garbage_and_three_are_the_end(bus: Bus) -> None:
    chip = bus.chips[0x36] = Chip(MAX17048)
    heard = Heard()
    seen = heard.reading

    def then_fail(reading: Any) -> None:
        seen(reading)
        chip.error = errno.EIO

    heard.reading = then_fail  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="0x36 on /dev/i2c-1 does not answer: Input/output error"):
        await source("max17048").watch(heard)
    assert (len(heard.readings), len(heard.bad)) == (1, 3)


async def test_a_board_without_its_chip_is_said_at_once(bus: Bus) -> None:
    with pytest.raises(DeviceError, match="does not answer: Remote I/O error") as lost:
        await source("max17048").watch(Heard())
    assert "i2cdetect" in lost.value.remedy
    bus.open_error = errno.ENOENT
    with pytest.raises(DeviceError, match="/dev/i2c-1 cannot be opened") as lost:
        await source("ina219").watch(Heard())
    assert "raspi-config" in lost.value.remedy


@pytest.mark.parametrize(
    ("chip", "registers", "why"),
    [
        ("ina219", {0: 0xFFFF}, "which no INA219 has"),
        ("ina219", {0: 0x0000}, "which no INA219 has"),
        ("ina219", {0: 0x9F39}, "which no INA219 has"),  # its bytes exchanged
        ("ina226", INA260, "it is an INA260"),
        ("ina260", INA226, "it is an INA226"),
        ("ina3221", {0xFE: 0xFFFF, 0xFF: 0xFFFF}, "are not its own"),
        ("max17048", MAX17040, "a max17040"),
        ("max17040", MAX17048, "a max17048"),
        ("max17048", {0x08: 0xFFFF}, "no fuel gauge"),
    ],
)
async def test_another_chip_at_the_address_is_named(bus: Bus, chip: str, registers: dict[int, int], why: str) -> None:
    bus.chips[CHIPS[chip].address] = Chip(registers)
    heard = Heard()
    with pytest.raises(DeviceError, match=why):
        await source(chip).watch(heard)
    assert not heard.readings


def test_a_small_current_out_is_small() -> None:
    assert signed(0xFFFF) == -1  # the makers' sample subtracts 65535, which would be 0
    assert swapped(0x1234) == 0x3412


def test_the_chips_scales() -> None:
    assert electric("ina226", INA226, shunt_ohms=0.01).amps == pytest.approx(0.2)
    assert electric("ina260", INA260, shunt_ohms=1).amps == pytest.approx(-0.125)
    assert electric("ina3221", INA3221, shunt_ohms=0.1, channel=2).amps == pytest.approx(0.2)
    assert electric("ina3221", INA3221, shunt_ohms=0.1, channel=2).volts == pytest.approx(5.12)
    assert gauge("max17040", MAX17040).volts == pytest.approx(3.90625, abs=0.002)


@given(
    st.sampled_from(sorted(CHIPS)), st.integers(0, 0xFFFF), st.dictionaries(st.integers(0, 255), st.integers(0, 65535))
)
def test_any_registers_are_values_or_refused(chip: str, other: int, registers: dict[int, int]) -> None:
    said = {register: registers.get(register, other) for register in range(256)}
    try:
        check(chip, said)
        gauge(chip, said) if CHIPS[chip].gauge else electric(chip, said, shunt_ohms=0.1, channel=3)
    except (WrongChipError, ValueError):
        pass
    assert i2c_chips.MAKER == 0x5449


@pytest.mark.parametrize(
    "keys",
    [{"address": 0x80}, {"shunt_ohms": 0.0}, {"channel": 4}, {"full_volts": 8.4}, {"empty_volts": 9, "full_volts": 8}],
)
def test_what_cannot_be_is_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        I2cConfig(chip="ina219", **keys)  # type: ignore[arg-type]
