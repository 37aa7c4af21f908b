"""UPS boards that say by a pin whether the mains are there: which pin, and which level means what. Pure.

Two makers use the same pin with opposite meanings, so the board must be named; it cannot be found out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Board:
    """The pins of a board, by their BCM numbers."""

    mains: int
    high_is_mains: bool
    """Whether a high level means that the mains are there."""
    battery_low: int | None = None
    high_is_low: bool = True
    """Whether a high level of that pin means a battery that is nearly empty."""


BOARDS = {
    # Suptronics x120x: pld.py of their own repository: GPIO6 high is power OK.
    "x120x": Board(6, high_is_mains=True),
    # Geekworm X728: x728 scripts: GPIO6 high is power lost.
    "x728": Board(6, high_is_mains=False),
    # SunFounder PiPower v1: examples/read_all.py: 17 is USB power, 27 a low battery.
    "pipower": Board(17, high_is_mains=True, battery_low=27),
}
