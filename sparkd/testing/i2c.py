"""Chips on an I2C bus that is not there: registers beneath the API of smbus2's `SMBus`, to be put in its place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Chip:
    """A chip's registers, of 16 bits each."""

    registers: dict[int, int] = field(default_factory=dict)
    other: int = 0
    """What a register holds that is not named."""
    error: int = 0
    """The errno that every access ends with; 0 for none."""

    def word(self, register: int) -> int:
        """Return a register. Raises OSError."""
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return self.registers.get(register, self.other) & 0xFFFF


@dataclass
class Bus:
    """A bus and its chips, by address. `opener` stands in for `smbus2.SMBus`."""

    chips: dict[int, Chip] = field(default_factory=dict)
    open_error: int = 0
    opened: int = 0

    def opener(self, number: int | None = None, *, force: bool = False) -> Opened:  # noqa: ARG002 - smbus2's own
        """Open the bus. Raises OSError."""
        if self.open_error:
            raise OSError(self.open_error, os.strerror(self.open_error), f"/dev/i2c-{number}")
        self.opened += 1
        return Opened(self)


@dataclass
class Opened:
    """What `SMBus(number)` returns, as far as it is used."""

    bus: Bus
    closed: bool = False

    def read_word_data(self, address: int, register: int, *, force: bool | None = None) -> int:  # noqa: ARG002 - likewise
        """Return a register as SMBus reads it: the byte that comes first is the least significant."""
        if self.closed:
            raise TypeError("the bus is closed")
        chip = self.bus.chips.get(address)
        if chip is None:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        word = chip.word(register)
        return (word & 0xFF) << 8 | word >> 8

    def close(self) -> None:
        """Close it."""
        self.closed = True
        self.bus.opened -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Opener = Callable[[int], Opened]
