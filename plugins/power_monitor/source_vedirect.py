"""A Victron battery monitor or solar charger on a VE.Direct cable (a serial line)."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError

from .ranges import check_range
from .source import Listener
from .vedirect_wire import Blocks, meaning, who

READ_BYTES = 4096
QUIET_S = 5.0
"""A device says a block every second."""
MOST_QUIET = 3
STRANGE_BYTES = 16_384
"""More than twenty seconds of the line without one good block."""
REMEDY = "look at the VE.Direct cable; see: ls /dev/serial/by-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class VedirectConfig:
    """The table `[plugins.power-monitor.vedirect.NAME]`."""

    device: Path
    """Such as /dev/serial/by-id/usb-VictronEnergy_BV_VE_Direct_cable_VE1234-if00-port0: that name stays."""
    capacity_wh: float = 0.0
    """Of the battery; 0 if it is not known."""
    interval_s: float = 1.0
    """How often the device speaks; it is not asked."""

    def __post_init__(self) -> None:
        check_range("capacity_wh", self.capacity_wh, 0, 1e6)
        check_range("interval_s", self.interval_s, 0.5, 60)


class VedirectSource:
    """Listens to the line."""

    def __init__(self, config: VedirectConfig) -> None:
        self._config = config

    async def watch(self, to: Listener) -> None:
        """Listen until cancelled. Raises DeviceError if the line is not there, goes, or stays silent."""
        with self._opened() as line:
            blocks, known, strange = Blocks(), "", 0
            while True:
                data, damaged = await self._read(line), blocks.damaged
                found = blocks.feed(data)
                strange = 0 if found else strange + len(data)
                if blocks.damaged > damaged:
                    to.garbage(f"{blocks.damaged - damaged} damaged blocks: checksum or form")
                if strange > STRANGE_BYTES:
                    raise DeviceError(f"{self._config.device} does not speak VE.Direct", remedy=REMEDY)
                for fields in found:
                    if "V" in fields or "PPV" in fields:  # monitors say their history in blocks of its own
                        known = self._tell(fields, to, known)

    def _tell(self, fields: dict[str, str], to: Listener, known: str) -> str:
        name = who(fields)
        if name != known:
            to.found(name)
        reading, doubts = meaning(fields, capacity_wh=self._config.capacity_wh)
        if doubts:
            to.garbage("; ".join(doubts))
        to.reading(reading)
        return name

    @contextmanager
    def _opened(self) -> Iterator[int]:
        device = self._config.device
        try:
            line = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceError(f"{device} cannot be opened: {error.strerror}", remedy=REMEDY) from None
        try:
            make_raw(line)
            yield line
        except termios.error as error:
            raise DeviceError(f"{device} is no serial line: {error.args[-1]}", remedy=REMEDY) from None
        finally:
            os.close(line)

    async def _read(self, line: int) -> bytes:
        for _ in range(MOST_QUIET):
            with anyio.move_on_after(QUIET_S):
                await anyio.wait_readable(line)
                try:
                    data = os.read(line, READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise DeviceError(f"{self._config.device} is gone: {error.strerror}", remedy=REMEDY) from None
                if not data:
                    raise DeviceError(f"{self._config.device} is gone", remedy=REMEDY)
                return data
        raise DeviceError(f"{self._config.device} was silent for {QUIET_S * MOST_QUIET:g} s", remedy=REMEDY)


def make_raw(line: int) -> None:
    """Set 19200 baud, 8 bits, no parity, one stop bit, and take bytes as they are. Raises termios.error."""
    _iflag, _oflag, cflag, _lflag, _ispeed, _ospeed, characters = termios.tcgetattr(line)
    cflag &= ~(termios.CSIZE | termios.PARENB | termios.CSTOPB | termios.CRTSCTS)
    cflag |= termios.CS8 | termios.CREAD | termios.CLOCAL
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    termios.tcsetattr(line, termios.TCSANOW, [0, 0, cflag, 0, termios.B19200, termios.B19200, characters])
