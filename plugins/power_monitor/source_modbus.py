"""A Victron system (GX device) over Modbus-TCP.

Registers and scales are those of Victron's list (`dbus_modbustcp/attributes.csv`); a value that a device does not know
is all ones, or the most that fits for a signed one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import anyio

from sparkd import DeviceError, PowerReading

from .ranges import HOUR_S, check_range
from .source import Listener

MISSES = 3
NOT_KNOWN, NOT_KNOWN_SIGNED = 0xFFFF, 0x7FFF
REMEDY = "switch on Settings > Services > Modbus TCP of the GX device; mend host, port and unit"
SOURCES = {0: None, 1: True, 2: True, 3: True, 240: False}
"""Of register 826, the active input: not known, grid, generator, shore, none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusConfig:
    """The table `[plugins.power-monitor.modbus.NAME]`."""

    host: str
    port: int = 502
    unit: int = 100
    """100 is the system as a whole; a battery or a charger has a number of its own, which the GX device shows."""
    device: Literal["victron-system", "victron-battery", "victron-solarcharger"] = "victron-system"
    capacity_wh: float = 0.0
    """Of the battery; 0 if it is not known."""
    interval_s: float = 1.0
    answer_limit_s: float = 3.0

    def __post_init__(self) -> None:
        check_range("port", self.port, 1, 65_535)
        check_range("unit", self.unit, 0, 255)
        check_range("capacity_wh", self.capacity_wh, 0, 1e6)
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)
        check_range("answer_limit_s", self.answer_limit_s, 0.1, 60)


@dataclass(frozen=True, slots=True)
class Map:
    """The registers of a kind of device, in spans that are read at once, and what they mean."""

    spans: tuple[tuple[int, int], ...]
    """First register and number of registers."""
    meaning: Callable[[Mapping[int, int]], PowerReading]


def signed(value: int | None, scale: float) -> float | None:
    """Return a signed register; None for what is not known."""
    if value is None or value == NOT_KNOWN_SIGNED:
        return None
    return (value - 0x10000 if value & 0x8000 else value) * scale


def unsigned(value: int | None, scale: float) -> float | None:
    """Return a register; None for what is not known."""
    return None if value is None or value == NOT_KNOWN else value * scale


def total(values: list[float | None]) -> float | None:
    """Return the sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def system(registers: Mapping[int, int]) -> PowerReading:
    """Return what the registers of the system mean."""
    at = registers.get
    active = at(826)
    return PowerReading(
        mains=SOURCES.get(active) if active is not None else None,
        load_watts=total([unsigned(at(register), 1.0) for register in (817, 818, 819)]),
        grid_watts=total([signed(at(register), 1.0) for register in (820, 821, 822)]),
        battery_volts=unsigned(at(840), 0.1),
        battery_amps=signed(at(841), 0.1),
        battery_watts=signed(at(842), 1.0),
        charge_percent=unsigned(at(843), 1.0),
        time_to_empty_s=unsigned(at(846), 100.0),
        solar_watts=unsigned(at(850), 1.0),
    )


def battery(registers: Mapping[int, int]) -> PowerReading:
    """Return what the registers of a battery mean."""
    at = registers.get
    return PowerReading(
        battery_watts=signed(at(258), 1.0),
        battery_volts=unsigned(at(259), 0.01),
        battery_amps=signed(at(261), 0.1),
        temperature_c=signed(at(262), 0.1),
        charge_percent=unsigned(at(266), 0.1),
        time_to_empty_s=unsigned(at(303), 100.0),
    )


def charger(registers: Mapping[int, int]) -> PowerReading:
    """Return what the registers of a solar charger mean."""
    at = registers.get
    error = at(788)
    return PowerReading(
        battery_volts=unsigned(at(771), 0.01),
        battery_amps=signed(at(772), 0.1),
        solar_watts=unsigned(at(789), 0.1),
        detail={} if not error else {"error": str(error)},
    )


MAPS = {
    "victron-system": Map(((817, 10), (840, 7), (850, 1)), system),
    "victron-battery": Map(((258, 9), (303, 1)), battery),
    "victron-solarcharger": Map(((771, 2), (788, 2)), charger),
}


class ModbusSource:
    """Reads the registers at an interval."""

    def __init__(self, config: ModbusConfig) -> None:
        self._config = config

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if the device is not there, goes, or has no such unit."""
        client = await self._connect()
        first, missed = True, 0
        try:
            while True:
                registers, wrong = await self._look(client)
                missed = missed + 1 if wrong else 0
                if wrong:
                    to.garbage(wrong)
                if missed >= MISSES or not client.connected:
                    raise DeviceError(f"{self._where}: {wrong or 'it closed the connection'}", remedy=REMEDY)
                if not wrong:
                    if first:
                        to.found(f"{self._config.device} at {self._where}, unit {self._config.unit}")
                        first = False
                    to.reading(self._meaning(registers))
                await anyio.sleep(self._config.interval_s)
        finally:
            client.close()

    @property
    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    async def _connect(self) -> Any:
        try:
            from pymodbus.client import AsyncModbusTcpClient  # noqa: PLC0415 - only where it is wanted
        except ImportError:
            raise DeviceError("pymodbus is not installed", remedy="pip install 'sparkd[power]'") from None
        config = self._config
        client = AsyncModbusTcpClient(
            config.host, port=config.port, timeout=config.answer_limit_s, retries=0, reconnect_delay=0
        )
        if not await client.connect():
            client.close()
            raise DeviceError(f"nobody answers at {self._where}", remedy=REMEDY)
        return client

    async def _look(self, client: Any) -> tuple[dict[int, int], str]:
        """Return the registers, or what went wrong."""
        from pymodbus.exceptions import ModbusException  # noqa: PLC0415 - likewise

        found: dict[int, int] = {}
        for begin, count in MAPS[self._config.device].spans:
            try:
                answer = await client.read_holding_registers(begin, count=count, device_id=self._config.unit)
            except ModbusException as error:
                return {}, f"register {begin}: {error}"
            if answer.isError():
                return {}, f"register {begin}: exception {getattr(answer, 'exception_code', answer)}"
            if len(answer.registers) != count:
                return {}, f"register {begin}: {count} registers expected, got {len(answer.registers)}"
            found |= dict(enumerate(answer.registers, begin))
        return found, ""

    def _meaning(self, registers: Mapping[int, int]) -> PowerReading:
        reading = MAPS[self._config.device].meaning(registers)
        if not self._config.capacity_wh:
            return reading

        return replace(reading, capacity_wh=self._config.capacity_wh)
