"""Where sound comes from: the settings of the microphone. Imports nothing heavy, so that a config can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RATE_HZ = 16_000
ARRAY = "hw:CARD=ArrayUAC10,DEV=0"
"""The ReSpeaker's own name at ALSA; `hw` keeps its channels as they are, `plughw` would mix them down."""
_ARRAY_CHANNELS = 6
_MAX_CHANNELS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneConfig:
    """`[plugins.respeaker-voice.microphone]`: 16 kHz, 16 bits, from a sound card, a WAV file or a pipe."""

    source: Literal["alsa", "file", "pipe"] = "alsa"
    device: str = ARRAY
    """What ALSA calls the sound card (`arecord -L`)."""
    path: Path | None = None
    """The WAV file, or the named pipe with raw samples in it."""
    channels: int = 0
    """Of the card or the pipe; 0: the card is asked for 6, 2, then 1, a pipe has 1. A WAV file says its own."""
    processed: int = 0
    """The channel to recognise from; the ReSpeaker cleans its first."""
    raw_channels: tuple[int, ...] = ()
    """The unprocessed channels, mic by mic around the circle, for the direction; none given: 1 to 4 of six."""
    paced: bool = True
    """Whether a file is played in real time, or as fast as it is read."""

    def __post_init__(self) -> None:
        if not 0 <= self.channels <= _MAX_CHANNELS:
            raise ValueError(f"channels = {self.channels}: 0 to {_MAX_CHANNELS} expected")
        if self.source != "alsa" and self.path is None:
            raise ValueError(f"source = {self.source!r} needs a path")
        if any(index < 0 for index in (self.processed, *self.raw_channels)):
            raise ValueError("channels are counted from 0")
        if self.channels and max(self.processed, *self.raw_channels, 0) >= self.channels:
            raise ValueError(f"processed and raw_channels must be below channels = {self.channels}")

    def raw_of(self, channels: int) -> tuple[int, ...]:
        """Return which of *channels* are unprocessed microphones; none if it cannot be known."""
        if self.raw_channels:
            return self.raw_channels if max(self.raw_channels) < channels else ()
        return (1, 2, 3, 4) if channels == _ARRAY_CHANNELS else ()

    @property
    def name(self) -> str:
        """What the source is called in messages."""
        return self.device if self.source == "alsa" else str(self.path)
