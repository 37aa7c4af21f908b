"""Recordings for a demonstration, as an array of four microphones around a circle would have heard them.

Each recording comes from a direction: the raw channels get it with the delays that a far source causes, in free field
(a room is harder), and noise. The first channel is the recording itself, as the ReSpeaker's processed channel would be.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .direction import MICROPHONES, RADIUS_M, SOUND_M_S
from .microphone import RATE_HZ

RECORDINGS = Path(__file__).parent / "recordings"
CHANNELS = 6
NOISE_DB = -20.0
"""The noise of each raw channel, below the level of the speech."""


@dataclass(frozen=True, slots=True)
class Said:
    """One recording in the scene."""

    name: str
    degrees: float
    """Where it comes from; 0 at the first raw channel's microphone, 90 at the second's."""
    starts_s: float
    """When it starts."""


def scene(
    path: Path, degrees: Sequence[float], *, pause_s: float, folder: Path = RECORDINGS, seed: int = 0
) -> list[Said]:
    """Write all recordings of *folder* one after the other into the six-channel WAV file *path*.

    The recordings come from *degrees* in turn, with *pause_s* of quiet before each and after the last. The same *seed*
    gives the same file. Raises ValueError if there is no recording, or one is not 16 kHz, 16 bits, one channel.
    """
    recordings = sorted(folder.glob("*.wav"))
    if not recordings:
        raise ValueError(f"no recordings (*.wav) in {folder}")
    chance, quiet = np.random.default_rng(seed), round(pause_s * RATE_HZ)
    said, pieces, begin = [], [], 0
    for recording, angle in zip(recordings, [degrees[i % len(degrees)] for i in range(len(recordings))], strict=True):
        samples = np.concatenate([np.zeros(quiet), _load(recording)])
        said.append(Said(recording.stem, angle, (begin + quiet) / RATE_HZ))
        pieces.append(heard(samples, angle, chance))
        begin += len(samples)
    pieces.append(heard(np.zeros(quiet), 0.0, chance))
    with wave.open(str(path), "wb") as file:
        file.setparams((CHANNELS, 2, RATE_HZ, 0, "NONE", ""))
        for piece in pieces:
            file.writeframes(piece.tobytes())
    return said


def heard(samples: NDArray[np.float64], degrees: float, chance: np.random.Generator) -> NDArray[np.int16]:
    """Return what six channels hear of *samples* from *degrees*: of shape (frames, 6)."""
    own = np.arange(MICROPHONES) * 2 * np.pi / MICROPHONES
    early_s = RADIUS_M / SOUND_M_S * np.cos(np.radians(degrees) - own)
    spectrum = np.fft.rfft(samples)
    turns = np.exp(2j * np.pi * np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[:, None] * early_s)
    raw = np.fft.irfft(spectrum[:, None] * turns, n=len(samples), axis=0)
    loud = np.sqrt(np.mean(samples[samples != 0] ** 2)) if samples.any() else 300.0
    raw += chance.normal(0, loud * 10 ** (NOISE_DB / 20), raw.shape)
    channels = np.zeros((len(samples), CHANNELS))
    channels[:, 0] = samples + chance.normal(0, 3.0, len(samples))  # a converter is never quite silent
    channels[:, 1 : 1 + MICROPHONES] = raw
    return np.clip(np.rint(channels), -32768, 32767).astype("<i2")


def _load(path: Path) -> NDArray[np.float64]:
    with wave.open(str(path), "rb") as file:
        kind = file.getnchannels(), file.getsampwidth(), file.getframerate()
        if kind != (1, 2, RATE_HZ):
            raise ValueError(f"{path}: one channel of 16 bits at {RATE_HZ} Hz expected, got {kind}")
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float64)
