"""GPIO lines of Linux, by gpiod 2; the one file that knows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sparkd import DeviceError

DEV = Path("/dev")
CONSUMER = "sparkd power-monitor"


def _gpiod() -> Any:
    try:
        import gpiod  # noqa: PLC0415 - only where there is a pin to watch
    except ImportError:
        raise DeviceError("gpiod is not installed", remedy="pip install 'sparkd[power]'") from None
    return gpiod


def chip_by_label(label: str) -> str:
    """Return the path of the chip that is called *label*: its number changes with the kernel. Raises DeviceError."""
    gpiod, seen = _gpiod(), []
    for path in sorted(DEV.glob("gpiochip*")):
        try:
            with gpiod.Chip(str(path)) as chip:
                found = chip.get_info().label
        except OSError as error:
            seen.append(f"{path.name}: {error.strerror}")
            continue
        if found == label:
            return str(path)
        seen.append(f"{path.name}: {found}")
    remedy = "mend chip, or add the account to the group gpio"
    raise DeviceError(f"no GPIO chip is called {label!r} ({'; '.join(seen) or 'there is none'})", remedy=remedy)


@contextmanager
def watched(path: str, pins: Sequence[int], debounce_ms: float) -> Iterator[Lines]:
    """Ask for *pins* of the chip at *path*, with both edges. Raises DeviceError."""
    gpiod = _gpiod()
    settings = gpiod.LineSettings(
        direction=gpiod.line.Direction.INPUT,
        edge_detection=gpiod.line.Edge.BOTH,
        debounce_period=timedelta(milliseconds=debounce_ms),
    )
    try:
        request = gpiod.request_lines(path, consumer=CONSUMER, config={tuple(pins): settings})
    except OSError as error:
        remedy = "another program holds the pin: see gpioinfo; the maker's own script, perhaps"
        raise DeviceError(f"{path}: pins {list(pins)} cannot be had: {error.strerror}", remedy=remedy) from None
    with request:
        yield Lines(request, gpiod.line.Value.ACTIVE)


class Lines:
    """Pins that are watched."""

    def __init__(self, request: Any, active: Any) -> None:
        self._request = request
        self._active = active

    def fileno(self) -> int:
        """Return the descriptor that is readable when a level changed."""
        return int(self._request.fd)

    def drain(self) -> None:
        """Take the news that are there."""
        self._request.read_edge_events()

    def level(self, pin: int) -> bool:
        """Return whether *pin* is high. Raises OSError."""
        return bool(self._request.get_value(pin) == self._active)
