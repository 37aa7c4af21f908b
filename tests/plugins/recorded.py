"""The recordings that ship with respeaker-voice, as the listener takes them."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sparkd_plugins.respeaker_voice.chunks import CHUNK_FRAMES, Chunk
from sparkd_plugins.respeaker_voice.demo import RECORDINGS
from sparkd_plugins.respeaker_voice.microphone import RATE_HZ

WAKE_S = 0.75
"""In `1-time-joe` the wake word takes so long; "what time is it" comes after."""


@cache
def recorded(name: str) -> NDArray[np.int16]:
    """Return a recording: one channel, 16 kHz."""
    with wave.open(str(RECORDINGS / f"{name}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def hush(seconds: float, *, level: float = 3.0) -> NDArray[np.int16]:
    """Return a quiet room."""
    return np.random.default_rng(1).normal(0, level, round(seconds * RATE_HZ)).astype(np.int16)


def said(*pieces: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the pieces one after the other, with a second of quiet before and two after."""
    return np.concatenate([hush(1.0), *pieces, hush(2.0)])


def chunks(sound: NDArray[np.int16], *, channels: int = 1, at: float = 0.0) -> Iterator[Chunk]:
    """Cut *sound* into pieces of 20 ms, the same in each of *channels*; it begins at *at*."""
    for begin in range(0, len(sound), CHUNK_FRAMES):
        piece = sound[begin : begin + CHUNK_FRAMES]
        yield Chunk(np.repeat(piece[:, None], channels, axis=1), at + begin / RATE_HZ)
