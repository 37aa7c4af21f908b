"""The I2C bus of Linux, by smbus2; the one file that knows it. Blocks: use it in a thread."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Any, Self

from sparkd import DeviceError

from .i2c_chips import swapped

WORD = 0xFFFF
REMEDIES = {
    errno.ENOENT: "switch I2C on (raspi-config), or mend bus; see: ls /dev/i2c-*",
    errno.EACCES: "add the account to the group i2c",
    errno.EBUSY: "a kernel driver holds the chip: use the kind power_supply or remove its overlay",
}


class I2cBus:
    """An opened bus, and one chip on it."""

    def __init__(self, bus: int, address: int) -> None:
        """Open bus number *bus* for the chip at *address*. Raises DeviceError."""
        try:
            from smbus2 import SMBus  # noqa: PLC0415 - only where there is a chip to ask
        except ImportError:
            raise DeviceError("smbus2 is not installed", remedy="pip install 'sparkd[power]'") from None
        self._address = address
        try:
            self._bus: Any = SMBus(bus)
        except OSError as error:
            remedy = REMEDIES.get(error.errno or 0, "see dmesg")
            raise DeviceError(f"/dev/i2c-{bus} cannot be opened: {error.strerror}", remedy=remedy) from None

    def word(self, register: int) -> int:
        """Return a register, its most significant byte first. Raises OSError if the chip does not answer."""
        return swapped(self._bus.read_word_data(self._address, register) & WORD)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.close()
