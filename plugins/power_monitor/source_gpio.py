"""A pin that says whether the mains are there: UPS boards of Suptronics, Geekworm, SunFounder, and whatever has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.to_thread

from sparkd import DeviceError, PowerReading

from .gpio_boards import BOARDS, Board
from .gpio_lines import Lines, chip_by_label, watched
from .ranges import HOUR_S, check_range
from .source import Listener

LAST_PIN = 1023
CONFIRM_S = 0.1
"""After a change it is read once more: a change that matters must be said twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpioConfig:
    """The table `[plugins.power-monitor.gpio.NAME]`."""

    board: Literal["x120x", "x728", "pipower", "custom"]
    """It must be named: X120x and X728 use the same pin with opposite meanings."""
    pin: int = -1
    """Of `custom`: its BCM number."""
    lost_when: Literal["low", "high"] = "low"
    """Of `custom`: the level that means that the mains are lost."""
    chip: str = "pinctrl-rp1"
    """The label of the GPIO chip: `pinctrl-rp1` on a Pi 5, `pinctrl-bcm2711` on a Pi 4; see gpiodetect."""
    debounce_ms: float = 20.0
    interval_s: float = 1.0
    """The level is said again after so long without a change."""

    def __post_init__(self) -> None:
        if self.board == "custom":
            check_range("pin", self.pin, 0, LAST_PIN)
        elif self.pin != -1:
            raise ValueError(f'pin: only for board = "custom"; {self.board} has its own')
        check_range("debounce_ms", self.debounce_ms, 0, 10_000)
        check_range("interval_s", self.interval_s, 0.05, HOUR_S)


class GpioSource:
    """Waits for the pin."""

    def __init__(self, config: GpioConfig) -> None:
        self._config = config
        custom = Board(config.pin, high_is_mains=config.lost_when == "low")
        self._board = BOARDS.get(config.board, custom)

    async def watch(self, to: Listener) -> None:
        """Watch until cancelled. Raises DeviceError if there is no such chip, or the pin is taken."""
        config, board = self._config, self._board
        path = await anyio.to_thread.run_sync(chip_by_label, config.chip)
        pins = [board.mains] if board.battery_low is None else [board.mains, board.battery_low]
        with watched(path, pins, config.debounce_ms) as lines:
            to.found(f"{config.board}: pin {board.mains} of {config.chip} ({path})")
            while True:
                self._tell(lines, to)
                changed = False
                with anyio.move_on_after(config.interval_s):
                    await anyio.wait_readable(lines)
                    changed = True
                if changed:
                    lines.drain()
                    self._tell(lines, to)
                    await anyio.sleep(CONFIRM_S)

    def _tell(self, lines: Lines, to: Listener) -> None:
        board = self._board
        try:
            mains = lines.level(board.mains) is board.high_is_mains
            low = board.battery_low is not None and lines.level(board.battery_low) is board.high_is_low
        except OSError as error:
            raise DeviceError(f"pin {board.mains} cannot be read: {error.strerror}", remedy="see dmesg") from None
        to.reading(PowerReading(mains=mains, battery_low=low and not mains))
