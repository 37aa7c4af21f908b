"""What the listening half tells the answering half: plain values, the sound in pieces as it is heard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndReason = Literal["silence", "limit", "nothing", "lost"]
"""The speaker paused; the longest utterance was reached; nobody spoke after the wake word; the microphone is gone."""


@dataclass(frozen=True, slots=True)
class Woken:
    """A wake word was heard, and an utterance begins."""

    word: str
    """As config names it; empty if an answer is awaited without a wake word."""
    score: float
    """How sure the detector is, 0 to 1."""
    at: float
    """When the word ended: `time.monotonic`, in seconds."""
    barge_in: bool = False
    """Whether it was heard while this node itself was speaking."""


@dataclass(frozen=True, slots=True)
class Voice:
    """The next piece of the utterance."""

    pcm: bytes
    """16 bits, little-endian, one channel, 16 kHz; cleaned if config says so."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The utterance is over."""

    reason: EndReason
    at: float
    """When that was decided: `time.monotonic`, in seconds."""
    spoke_until: float
    """When the last speech was heard, likewise."""
    audio_s: float
    """How much was given as `Voice`."""


Happening = Woken | Voice | Ended
