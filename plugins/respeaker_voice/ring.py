"""The ring of twelve LEDs: what the assistant is doing, and whom it hears.

A ring that is not there is no error: `show` never raises for it, remembers why in `trouble`, and the next state finds
it again when it is back. Idle is dark, so that a bedroom stays so.
"""

from __future__ import annotations

from typing import Literal

from sparkd import DeviceError

from .board import Board, Colour
from .xvf3000 import RING_LEDS

RingState = Literal["idle", "listen", "think", "speak", "error", "off"]
_DARK: Colour = (0, 0, 0)
_RED: Colour = (96, 0, 0)
_AROUND: Colour = (0, 0, 24)
_TOWARDS: Colour = (64, 160, 255)
_BESIDE: Colour = (16, 48, 96)


class Ring:
    """The lights of an array, or nothing if there is none."""

    def __init__(self, board: Board | None) -> None:
        """Light the ring of *board*; None: there is none, and nothing is tried."""
        self._board = board
        self._shown: tuple[RingState, int | None] | None = None
        self.trouble: DeviceError | None = None
        """Why the last state is not shown."""

    async def show(self, state: RingState, *, degrees: float | None = None) -> None:
        """Show *state*. While it listens, a direction in *degrees* is shown too. The same state twice is sent once."""
        led = None if degrees is None or state != "listen" else towards(degrees)
        if self._board is None or (self._shown == (state, led) and self.trouble is None):
            return
        self._shown, self.trouble = (state, led), None
        try:
            await self._light(self._board, state, led)
        except DeviceError as error:
            self.trouble = error

    async def _light(self, board: Board, state: RingState, led: int | None) -> None:
        if led is not None:
            await board.light(pointing(led))
        elif state in ("listen", "think", "speak"):
            await board.light_by_itself(state)
        else:
            await board.light([_RED if state == "error" else _DARK] * RING_LEDS)


def towards(degrees: float) -> int:
    """Return the LED nearest to a direction: 0 for the first microphone, 3 for the second."""
    return round(degrees * RING_LEDS / 360) % RING_LEDS


def pointing(led: int) -> list[Colour]:
    """Return the colours of a ring that points to *led*."""
    colours = [_AROUND] * RING_LEDS
    colours[led] = _TOWARDS
    colours[led - 1] = colours[(led + 1) % RING_LEDS] = _BESIDE
    return colours
