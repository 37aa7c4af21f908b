"""Where a voice comes from: from the array, which knows when it has that firmware, or from the raw channels.

The software way is SRP-PHAT (DiBiase, 2000): for each pair of microphones the cross-spectrum keeps its phase only, so
that loud frequencies say no more than others; the direction is where the phases that a far source would cause agree
best over all pairs. Two things make it hold in a room: frames in which the sound rises count more, as the direct sound
comes before its reflections, and frequencies that rise above the noise count, others do not.

Angles are in degrees: 0 at the first raw channel's microphone, 90 at the second's. Nothing here blocks for long: half a
second of four channels takes a few milliseconds.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sparkd import DeviceError

from .board import Board
from .microphone import RATE_HZ

RADIUS_M = 0.0325
"""From the centre of the ReSpeaker 4 Mic Array to each microphone."""
MICROPHONES = 4
SOUND_M_S = 343.0
WINDOW, HOP = 512, 128
LOW_HZ, HIGH_HZ = 250.0, 6000.0
STEP_DEGREES = 2
QUIET_RMS = 30.0
"""Of 32768; below it (-61 dBFS) there is nobody."""
SALIENT = 0.12
"""How far the best direction must stand above the mean of all, as a part of what perfect agreement gives."""

Complex = NDArray[np.complex64]
Real = NDArray[np.float32]


@dataclass(slots=True)
class Bearing:
    """Directions from the raw channels of microphones that stand evenly around a circle."""

    radius_m: float = RADIUS_M
    microphones: int = MICROPHONES
    _window: Real = field(init=False)
    _band: slice = field(init=False)
    _pairs: list[tuple[int, int]] = field(init=False)
    _steering: Complex = field(init=False)

    def __post_init__(self) -> None:
        frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE_HZ)
        self._band = slice(int(np.searchsorted(frequencies, LOW_HZ)), int(np.searchsorted(frequencies, HIGH_HZ)))
        self._window = np.hanning(WINDOW).astype(np.float32)
        self._pairs = list(combinations(range(self.microphones), 2))
        angles = np.radians(np.arange(0, 360, STEP_DEGREES))
        own = np.arange(self.microphones) * 2 * math.pi / self.microphones
        early = self.radius_m / SOUND_M_S * np.cos(angles[:, None] - own)  # seconds before the centre hears it
        ahead = np.stack([early[:, one] - early[:, other] for one, other in self._pairs], axis=1)
        phase = -2j * math.pi * ahead[:, :, None] * frequencies[self._band]
        self._steering = np.exp(phase).astype(np.complex64).reshape(len(angles), -1)

    def of(self, raw: NDArray[np.int16]) -> float | None:
        """Return the direction of what sounds in *raw*, of shape (frames, microphones), best half a second of it.

        None if it is too short, too quiet, of other channels, or comes from everywhere.
        """
        if raw.ndim != 2 or raw.shape[1] != self.microphones or len(raw) < 4 * WINDOW:  # noqa: PLR2004 - (frames, channels)
            return None
        samples = raw.astype(np.float32)
        samples -= samples.mean(axis=0)
        if float(np.sqrt(np.mean(samples**2))) < QUIET_RMS:
            return None
        power = self._power(self._spectra(samples))
        best = int(np.argmax(power))
        if power[best] - power.mean() < SALIENT:
            return None
        before, at, after = (float(power[(best + turn) % len(power)]) for turn in (-1, 0, 1))
        bend = before - 2 * at + after
        aside = 0.5 * (before - after) / bend if bend else 0.0
        return ((best + aside) * STEP_DEGREES) % 360

    def _spectra(self, samples: Real) -> Complex:
        """Return the spectra of overlapping frames: (frames, microphones, frequencies)."""
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW, axis=0)[::HOP]
        return np.fft.rfft(frames * self._window, axis=2)[:, :, self._band].astype(np.complex64)

    def _power(self, spectra: Complex) -> Real:
        """Return how well each direction explains the phases, 1 for perfectly."""
        weights = _weights(spectra)
        whole = float(weights.sum()) or 1.0
        phases = spectra / np.maximum(np.abs(spectra), 1e-6)
        crosses = [
            np.einsum("tf,tf->f", weights, phases[:, one] * phases[:, other].conj()) for one, other in self._pairs
        ]
        together = np.concatenate(crosses).astype(np.complex64)
        found: Real = (self._steering @ together).real / (whole * len(self._pairs))
        return found


def _weights(spectra: Complex) -> Real:
    """Return how much each frame and frequency counts: where the level rises, and above the noise."""
    level = np.mean(np.abs(spectra) ** 2, axis=1)
    noise = np.quantile(level, 0.2, axis=0) + 1e-9
    before = np.empty_like(level)
    trail = level[0].copy()
    for index, row in enumerate(level):  # what still rings from before, decaying
        before[index] = trail
        trail = np.maximum(row, 0.85 * trail)
    loud = np.clip(1 - 2 * noise / np.maximum(level, 1e-9), 0, 1)
    rising = np.where(level > before, 1.0, 0.05)
    weights: Real = (loud * rising).astype(np.float32)
    return weights


def circular_mean(degrees: list[float]) -> float | None:
    """Return the mean of directions; None if there are none, or they point away from each other."""
    total = sum((cmath.exp(1j * math.radians(one)) for one in degrees), 0j)
    if abs(total) < 0.3 * max(len(degrees), 1):  # less than that, and the mean says nothing of any of them
        return None
    return math.degrees(cmath.phase(total)) % 360


def apart(one: float, other: float) -> float:
    """Return the angle between two directions, 0 to 180 degrees."""
    return abs((one - other + 180) % 360 - 180)


@dataclass(slots=True)
class Compass:
    """The direction of who speaks, smoothed: asked of the array if there is one that answers, else computed.

    A new speaker is followed at once: directions that differ by more than `turn_degrees` from the last mean begin anew
    when two in a row agree.
    """

    board: Board | None = None
    bearing: Bearing = field(default_factory=Bearing)
    turn_degrees: float = 30.0
    from_array: bool = False
    """Whether the last direction came from the array."""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=5))
    _astray: float | None = None

    async def at_once(self, raw: NDArray[np.int16]) -> float | None:
        """Return the direction of *raw*, the half second of a wake word: whoever spoke before says nothing of it."""
        self._recent.clear()
        self._astray = None
        return await self.of(raw)

    async def of(self, raw: NDArray[np.int16]) -> float | None:
        """Return the direction of *raw*, the newest half second of the raw channels; None if nobody speaks."""
        found = await self._asked()
        self.from_array = found is not None
        if found is None:
            found = self.bearing.of(raw)
        return None if found is None else self.smoothed(found)

    async def _asked(self) -> float | None:
        if self.board is None:
            return None
        try:
            heard = await self.board.heard()
        except DeviceError:  # whoever lights its ring tells of it; the channels may still be there
            return None
        return float(heard.degrees) if heard.speech else None

    def smoothed(self, degrees: float) -> float | None:
        """Return the mean direction with one more in it."""
        mean = circular_mean(list(self._recent))
        if mean is not None and apart(mean, degrees) > self.turn_degrees:
            if self._astray is None or apart(self._astray, degrees) > self.turn_degrees:
                self._astray = degrees
                return mean
            self._recent.clear()
            self._recent.append(self._astray)
        self._astray = None
        self._recent.append(degrees)
        return circular_mean(list(self._recent))
