"""Meters and gauges on I2C: what their registers mean. Pure.

All registers are 16 bits, the most significant byte first on the wire, as `I2cBus.word` gives them. Amperes come from
the shunt's own voltage and resistance: chips lose their calibration register in a brown-out, and then show no load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SIGN = 0x8000


class WrongChipError(Exception):
    """What answers is not the chip that was named; the message says why."""


@dataclass(frozen=True, slots=True)
class Electric:
    """What a meter shows."""

    volts: float
    amps: float


@dataclass(frozen=True, slots=True)
class Gauge:
    """What a fuel gauge shows."""

    volts: float
    percent: float


@dataclass(frozen=True, slots=True)
class Chip:
    """A kind of chip."""

    address: int
    """Its first, or usual one."""
    registers: tuple[int, ...]
    """Those to read each time; of a chip with channels, of its first."""
    probes: tuple[int, ...]
    """Those that tell whether it is this chip."""
    gauge: bool = False


CHIPS = {
    "ina219": Chip(0x40, (1, 2), (0,)),
    "ina226": Chip(0x40, (1, 2), (0xFE, 0xFF)),
    "ina260": Chip(0x40, (1, 2), (0xFE, 0xFF)),
    "ina3221": Chip(0x40, (1, 2), (0xFE, 0xFF)),
    "max17040": Chip(0x36, (0x02, 0x04), (0x08,), gauge=True),
    "max17048": Chip(0x36, (0x02, 0x04), (0x08,), gauge=True),
}
MAKER = 0x5449
"""`TI`, in register 0xFE of those that have one (data sheets of INA226, INA260, INA3221)."""
DIES = {"ina226": (0x2260,), "ina260": (0x2270, 0x2271), "ina3221": (0x3220,)}
VERSIONS = {"max17040": range(0x0001, 0x0010), "max17048": range(0x0010, 0x0020)}
INA219_UNUSED = 0x4000
"""Bit 14 of its configuration is not used, and reads 0; bit 15 is the reset, and reads 0 too."""
INA219_NO_ANSWERS = (0x0000, 0xFFFF)
OVERFLOW = 0x1
"""Bit 0 of INA219's bus voltage."""
INA219_SHUNT_V, INA219_BUS_V = 10e-6, 4e-3
INA226_SHUNT_V, INA226_BUS_V = 2.5e-6, 1.25e-3
INA260_A, INA260_BUS_V = 1.25e-3, 1.25e-3
INA3221_SHUNT_V, INA3221_BUS_V = 40e-6, 8e-3
MAX17040_V, MAX17048_V = 1.25e-3, 78.125e-6
PERCENT_LSB = 1 / 256


def signed(word: int) -> int:
    """Return a register's value as two's complement. Some makers' samples subtract 65535, and are off by one."""
    return word - 0x10000 if word & SIGN else word


def swapped(word: int) -> int:
    """Return *word* with its bytes exchanged: SMBus says the least significant first, these chips the other."""
    return (word & 0xFF) << 8 | word >> 8


def check(chip: str, said: Mapping[int, int]) -> str:
    """Return what was found, by the registers of `Chip.probes`. Raises WrongChipError."""
    if chip == "ina219":
        config = said[0]
        if config in INA219_NO_ANSWERS or config & (INA219_UNUSED | SIGN):
            raise WrongChipError(f"its configuration register holds {config:#06x}, which no INA219 has")
        return f"INA219, configuration {config:#06x}"
    if chip in VERSIONS:
        version = said[0x08]
        if version not in VERSIONS[chip]:
            known = [name for name, versions in VERSIONS.items() if version in versions]
            raise WrongChipError(f"its version is {version:#06x}: {f'a {known[0]}' if known else 'no fuel gauge'}")
        return f"{chip.upper()}, version {version:#06x}"
    maker, die = said[0xFE], said[0xFF]
    if maker != MAKER or die not in DIES[chip]:
        other = next((name for name, dies in DIES.items() if maker == MAKER and die in dies), "")
        it_is = f"it is an {other.upper()}" if other else f"maker {maker:#06x} and die {die:#06x} are not its own"
        raise WrongChipError(it_is)
    return f"{chip.upper()}, die {die:#06x}"


def electric(chip: str, said: Mapping[int, int], *, shunt_ohms: float, channel: int = 1) -> Electric:
    """Return what a meter shows. Raises ValueError if the chip itself says that it cannot be believed."""
    if chip == "ina219":
        if said[2] & OVERFLOW:
            raise ValueError("overflow: more current than its range")
        return Electric((said[2] >> 3) * INA219_BUS_V, signed(said[1]) * INA219_SHUNT_V / shunt_ohms)
    if chip == "ina226":
        return Electric(said[2] * INA226_BUS_V, signed(said[1]) * INA226_SHUNT_V / shunt_ohms)
    if chip == "ina260":
        return Electric(said[2] * INA260_BUS_V, signed(said[1]) * INA260_A)
    shunt, bus = said[2 * channel - 1], said[2 * channel]
    return Electric((signed(bus) >> 3) * INA3221_BUS_V, (signed(shunt) >> 3) * INA3221_SHUNT_V / shunt_ohms)


def gauge(chip: str, said: Mapping[int, int]) -> Gauge:
    """Return what a fuel gauge shows."""
    volts = (said[0x02] >> 4) * MAX17040_V if chip == "max17040" else said[0x02] * MAX17048_V
    return Gauge(volts, said[0x04] * PERCENT_LSB)
