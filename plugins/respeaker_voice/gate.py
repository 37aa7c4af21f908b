"""The energy gate: in a quiet room nothing but the level is computed.

It is open while the sound is louder than the noise around it, and a while after. The noise floor follows the quietest
sound at once and rises slowly, so that a fan that is switched on holds the gate open for seconds, not for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 32768.0
RISE_DB_S = 3.0
"""So fast the floor rises towards a sound that goes on: a fan 30 dB above the quiet opens the gate for ten seconds."""
HOLD_S = 1.2
"""The gate stays open for so long: a pause between two words must not close it."""


def level_dbfs(pcm: NDArray[np.int16]) -> float:
    """Return the level of *pcm*, one channel, without its offset: dB of a full-scale square wave, -100 for silence."""
    if not len(pcm):
        return -100.0
    samples = pcm.astype(np.float32)
    power = float(np.var(samples))
    return max(-100.0, 10 * math.log10(power + 1e-9) - 20 * math.log10(FULL_SCALE))


@dataclass(slots=True)
class Gate:
    """Whether sound is worth looking at."""

    margin_db: float
    lowest_dbfs: float
    floor_dbfs: float = 0.0
    """The noise floor; before anything was heard, all is quieter than it."""
    _open_s: float = 0.0

    def passes(self, pcm: NDArray[np.int16], seconds: float) -> bool:
        """Return whether the gate is open for *pcm*, a piece of one channel that lasts *seconds*."""
        level = level_dbfs(pcm)
        self.floor_dbfs = min(level, self.floor_dbfs + RISE_DB_S * seconds)
        if level >= max(self.floor_dbfs + self.margin_db, self.lowest_dbfs):
            self._open_s = HOLD_S
            return True
        self._open_s = max(0.0, self._open_s - seconds)
        return self._open_s > 0 or self.margin_db == 0

    def reset(self) -> None:
        """Forget the room: another microphone."""
        self.floor_dbfs, self._open_s = 0.0, 0.0
