"""What a microphone gives, and how a stream of bytes is cut into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparkd import DeviceError

from .microphone import RATE_HZ, MicrophoneConfig

CHUNK_FRAMES = RATE_HZ // 50
"""20 ms."""
SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fiftieth of a second of sound; the last one of a file may be shorter."""

    pcm: NDArray[np.int16]
    """Of shape (frames, channels), 16 kHz."""
    at: float
    """When its first frame was heard: `time.monotonic`, in seconds."""


class Microphone(Protocol):
    """An open source of sound."""

    @property
    def channels(self) -> int:
        """How many channels each chunk has."""
        ...

    @property
    def processed(self) -> int:
        """The channel for recognition."""
        ...

    @property
    def raw(self) -> tuple[int, ...]:
        """The channels for the direction; may be empty."""
        ...

    @property
    def overruns(self) -> int:
        """How often sound was lost since it was opened, because nobody took it in time."""
        ...

    def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the sound. Ends with a file; raises DeviceError when the source is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """How many channels there are, and which of them is what."""

    channels: int
    processed: int
    raw: tuple[int, ...]

    @classmethod
    def of(cls, config: MicrophoneConfig, channels: int) -> Layout:
        """Return the layout of a source with *channels*. Raises DeviceError if it has not the one to recognise from."""
        if config.processed >= channels:
            text = f"{config.name} has {channels} channels, and channel {config.processed} is to be recognised from"
            raise DeviceError(text, remedy="set processed in the table microphone; channels are counted from 0")
        return cls(channels, config.processed, config.raw_of(channels))


@dataclass(slots=True)
class Cutter:
    """Cuts bytes that come in pieces of any length into arrays of 20 ms."""

    channels: int
    kept: bytearray = field(default_factory=bytearray)

    def take(self, piece: bytes) -> Iterator[NDArray[np.int16]]:
        """Yield what is whole by now."""
        self.kept += piece
        size = CHUNK_FRAMES * self.channels * SAMPLE_BYTES
        while len(self.kept) >= size:
            whole = bytes(self.kept[:size])
            del self.kept[:size]
            yield self._shaped(whole)

    def rest(self) -> NDArray[np.int16]:
        """Return the whole frames that are left."""
        frame = self.channels * SAMPLE_BYTES
        whole = bytes(self.kept[: len(self.kept) // frame * frame])
        self.kept.clear()
        return self._shaped(whole)

    @property
    def seconds(self) -> float:
        """How much sound is kept."""
        return len(self.kept) / (SAMPLE_BYTES * self.channels * RATE_HZ)

    def _shaped(self, whole: bytes) -> NDArray[np.int16]:
        return np.frombuffer(whole, dtype="<i2").astype(np.int16, copy=False).reshape(-1, self.channels)
