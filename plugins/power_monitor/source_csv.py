"""A recording as a power source: for drills, for tests, and to look again at what happened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError

from . import recording
from .ranges import check_range
from .source import Listener

FASTEST = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvConfig:
    """The table `[plugins.power-monitor.csv.NAME]`."""

    file: Path
    """A recording: its first line names columns, `t_s` (seconds) and fields such as `mains` and `charge_percent`."""
    speed: float = 1.0
    """How much faster than it was recorded."""
    loop: bool = False
    """Whether it begins again at its end; else its last line stays true."""
    interval_s: float = 1.0
    """The last line is said again after so long without a new one."""

    def __post_init__(self) -> None:
        check_range("speed", self.speed, 0.001, FASTEST)
        check_range("interval_s", self.interval_s, 0.01, 3600)


class CsvSource:
    """Plays a recording."""

    def __init__(self, config: CsvConfig) -> None:
        self._config = config

    async def watch(self, to: Listener) -> None:
        """Play it until cancelled. Raises DeviceError if the file cannot be read, or is no recording."""
        rows = await self._rows()
        good = [one for one in rows if isinstance(one, recording.Row)]
        if not good:
            raise DeviceError(f"{self._config.file} holds no readings", remedy="record some: the key record")
        span_s = good[-1].at_s - good[0].at_s
        to.found(f"{len(good)} readings over {span_s:.0f} s in {self._config.file.name}, at {self._config.speed:g} x")
        while True:
            await self._play(rows, good[0].at_s, to)
            if not self._config.loop:
                break
        while True:
            to.reading(good[-1].reading)
            await anyio.sleep(self._config.interval_s)

    async def _rows(self) -> list[recording.Row | recording.Bad]:
        def read() -> list[recording.Row | recording.Bad]:
            with self._config.file.open(encoding="utf-8", errors="replace") as lines:
                return list(recording.read(lines))

        try:
            return await anyio.to_thread.run_sync(read)
        except OSError as error:
            why = error.strerror or str(error)
            raise DeviceError(f"{self._config.file}: {why}", remedy="mend the key file") from None
        except ValueError as error:
            raise DeviceError(f"{self._config.file}: {error}", remedy="mend its first line") from None

    async def _play(self, rows: list[recording.Row | recording.Bad], first_s: float, to: Listener) -> None:
        begun, before = anyio.current_time(), None
        for one in rows:
            if isinstance(one, recording.Bad):
                to.garbage(f"line {one.number}: {one.reason}")
                continue
            due = begun + (one.at_s - first_s) / self._config.speed
            while before is not None and due - anyio.current_time() > self._config.interval_s:
                await anyio.sleep(self._config.interval_s)
                to.reading(before.reading)
            await anyio.sleep_until(due)
            to.reading(one.reading)
            before = one
