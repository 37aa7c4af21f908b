"""GPIO chips that are not there: levels of pins beneath the API of gpiod 2, to be put in its place.

An edge makes the request's descriptor readable, as the kernel does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace, TracebackType
from typing import Any, Self


@dataclass
class Pins:
    """All chips: labels by path, and the levels of the pins of the one that has them."""

    labels: dict[str, str] = field(default_factory=dict)
    levels: dict[int, bool] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    """Pins that another program holds."""
    dead: bool = False
    requests: list[Request] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)

    def set(self, pin: int, *, high: bool) -> None:
        """Change a level; whoever watches is told."""
        if self.levels.get(pin) is high:
            return
        self.levels[pin] = high
        for request in self.requests:
            if pin in request.pins:
                os.eventfd_write(request.fd, 1)

    def open_chip(self, path: str) -> OpenChip:
        """Stand in for `gpiod.Chip`."""
        if path not in self.labels:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return OpenChip(self.labels[path])

    def request_lines(self, path: str, consumer: str, config: Mapping[tuple[int, ...], Any]) -> Request:
        """Stand in for `gpiod.request_lines`."""
        pins = [pin for group in config for pin in group]
        self.asked = {"path": path, "consumer": consumer, "settings": next(iter(config.values()))}
        if self.busy & set(pins):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return Request(self, pins)


@dataclass
class OpenChip:
    """What `gpiod.Chip` returns, as far as it is used."""

    label: str

    def get_info(self) -> SimpleNamespace:
        """Return its label."""
        return SimpleNamespace(label=self.label)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""


class Request:
    """What `gpiod.request_lines` returns, as far as it is used."""

    def __init__(self, chips: Pins, pins: list[int]) -> None:
        self.pins = pins
        self._chips = chips
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        chips.requests.append(self)

    def get_value(self, pin: int) -> Any:
        """Return a level, as gpiod names it."""
        import gpiod  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - its own names

        if self._chips.dead:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return gpiod.line.Value.ACTIVE if self._chips.levels.get(pin, False) else gpiod.line.Value.INACTIVE

    def read_edge_events(self) -> list[int]:
        """Take what came."""
        return [os.eventfd_read(self.fd)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chips.requests.remove(self)
        os.close(self.fd)


@contextmanager
def installed(pins: Pins) -> Iterator[Pins]:
    """Put *pins* in the place of gpiod's own functions while the block runs."""
    import gpiod  # noqa: PLC0415 - its own names

    before = gpiod.Chip, gpiod.request_lines
    gpiod.Chip, gpiod.request_lines = pins.open_chip, pins.request_lines  # type: ignore[assignment,misc,unused-ignore]
    try:
        yield pins
    finally:
        gpiod.Chip, gpiod.request_lines = before  # type: ignore[misc,unused-ignore]
