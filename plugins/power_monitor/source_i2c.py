"""A current meter or fuel gauge on I2C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.to_thread

from sparkd import DeviceError, PowerReading

from . import i2c_chips
from .i2c_bus import I2cBus
from .i2c_chips import CHIPS, Electric, WrongChipError
from .ranges import HOUR_S, check_range
from .source import Listener

MISSES = 3
REMEDY = "see what answers: i2cdetect -y BUS; look at the board's cable and power"
LAST_CHANNEL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class I2cConfig:
    """The table `[plugins.power-monitor.i2c.NAME]`."""

    chip: Literal["ina219", "ina226", "ina260", "ina3221", "max17040", "max17048"]
    bus: int = 1
    """The number in /dev/i2c-N."""
    address: int = 0
    """0 for the chip's usual one: 0x40 of meters, 0x36 of gauges."""
    shunt_ohms: float = 0.1
    """Of the resistor that the meter measures at; 0.1 on most INA219 boards, 0.01 on Waveshare's newer ones."""
    channel: int = 1
    """Of an INA3221: 1 to 3."""
    measures: Literal["battery", "load", "solar"] = "battery"
    """What flows through it. Of a battery, what flows in is positive."""
    invert: bool = False
    """Whether the meter is wired the other way round."""
    empty_volts: float = 0.0
    full_volts: float = 0.0
    """Of a battery without a gauge: its charge is reckoned between the two (a 2S pack: 6.0 and 8.4). 0 for not."""
    capacity_wh: float = 0.0
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        check_range("bus", self.bus, 0, 255)
        check_range("address", self.address, 0, 0x77)
        check_range("shunt_ohms", self.shunt_ohms, 1e-6, 1000)
        check_range("channel", self.channel, 1, LAST_CHANNEL)
        check_range("capacity_wh", self.capacity_wh, 0, 1e6)
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)
        if self.full_volts and not 0 < self.empty_volts < self.full_volts:
            raise ValueError(f"empty_volts: between 0 and full_volts expected, got {self.empty_volts:g}")


class I2cSource:
    """Reads a chip at an interval, in a thread."""

    def __init__(self, config: I2cConfig) -> None:
        self._config = config
        self._chip = CHIPS[config.chip]
        self._address = config.address or self._chip.address
        self._threads = anyio.CapacityLimiter(1)

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if the chip is not there, is another one, or goes."""
        first, missed = True, 0
        while True:
            try:
                what, said = await anyio.to_thread.run_sync(self._look, first, limiter=self._threads)
                reading = self._meaning(said)
            except WrongChipError as error:
                raise DeviceError(f"{self._where} is no {self._config.chip.upper()}: {error}", remedy=REMEDY) from None
            except OSError as error:
                missed += 1
                to.garbage(f"{self._where} does not answer: {error.strerror or error}")
                if first or missed >= MISSES:
                    raise DeviceError(f"{self._where} does not answer: {error.strerror}", remedy=REMEDY) from None
            except ValueError as error:
                to.garbage(f"{self._where}: {error}")
            else:
                if first:
                    to.found(what)
                first, missed = False, 0
                to.reading(reading)
            await anyio.sleep(self._config.interval_s)

    @property
    def _where(self) -> str:
        return f"{self._address:#04x} on /dev/i2c-{self._config.bus}"

    def _look(self, probe: bool) -> tuple[str, dict[int, int]]:  # noqa: FBT001 - called through a thread
        """Return what is there and its registers. The bus is opened anew: a chip may come and go with its board."""
        with I2cBus(self._config.bus, self._address) as bus:
            what = i2c_chips.check(self._config.chip, _read(bus, self._chip.probes)) if probe else ""
            return f"{what} at {self._where}", _read(bus, self._registers())

    def _registers(self) -> Sequence[int]:
        if self._config.chip == "ina3221":
            return (2 * self._config.channel - 1, 2 * self._config.channel)
        return self._chip.registers

    def _meaning(self, said: dict[int, int]) -> PowerReading:
        config = self._config
        capacity = config.capacity_wh or None
        if self._chip.gauge:
            gauge = i2c_chips.gauge(config.chip, said)
            return PowerReading(battery_volts=gauge.volts, charge_percent=gauge.percent, capacity_wh=capacity)
        shown = i2c_chips.electric(config.chip, said, shunt_ohms=config.shunt_ohms, channel=config.channel)
        if config.invert:
            shown = Electric(shown.volts, -shown.amps)
        watts = shown.volts * shown.amps
        if config.measures == "solar":
            return PowerReading(solar_watts=watts)
        if config.measures == "load":
            return PowerReading(load_volts=shown.volts, load_amps=shown.amps, load_watts=watts)
        return PowerReading(
            battery_volts=shown.volts,
            battery_amps=shown.amps,
            battery_watts=watts,
            charge_percent=self._percent(shown.volts),
            capacity_wh=capacity,
        )

    def _percent(self, volts: float) -> float | None:
        config = self._config
        if not config.full_volts:
            return None
        part = (volts - config.empty_volts) / (config.full_volts - config.empty_volts)
        return min(max(part, 0.0), 1.0) * 100


def _read(bus: I2cBus, registers: Sequence[int]) -> dict[int, int]:
    return {register: bus.word(register) for register in registers}
