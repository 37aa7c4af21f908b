"""Speech between services: who turns it into text and back, who answers, and what is told of it. Layer: values.

Sound is PCM of 16 bits, little-endian, one channel, everywhere on the bus and in calls; its rate is named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from sparkd.events import Durability, event
from sparkd.interfaces import interface, reads
from sparkd.privacy import Privacy


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was said."""

    text: str
    language: str = ""
    """As BCP 47 says, such as `en`; empty if the engine does not tell."""
    engine: str = ""
    """What heard it: engine and model, such as `faster-whisper tiny.en`."""
    audio_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """A voice that `speech` can speak with."""

    name: str
    language: str
    engine: str
    rate_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A piece of what is spoken."""

    pcm: bytes
    rate_hz: int


@interface("speech")
class Speech(Protocol):
    """Speech to text, and text to speech."""

    @reads
    async def transcribe(self, *, audio: AsyncIterator[bytes], rate_hz: int = 16_000, language: str = "") -> Transcript:
        """Return what is said in *audio*, an utterance in pieces of any length."""
        ...

    @reads
    def synthesize(self, *, text: str, voice: str = "", language: str = "") -> AsyncIterator[Sound]:
        """Speak *text*: yields the sound piece by piece, the first as soon as there is one."""
        ...

    @reads
    async def voices(self) -> list[Speaker]:
        """List the voices."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What is to be answered."""

    text: str
    """To be spoken; nothing if there is nothing to say."""
    intent: str = ""
    """What was understood; nothing if it was not."""
    listen: bool = False
    """Whether the answer is awaited, without a wake word."""


@interface("dialog")
class Dialog(Protocol):
    """Who answers to what was said."""

    async def reply(
        self, *, text: str, utterance_id: str = "", language: str = "", direction_deg: float | None = None
    ) -> Reply:
        """Return the answer to *text*, having done what it asks for."""
        ...


@event("edge.voice.wake")
@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """A wake word was heard."""

    utterance_id: str
    word: str
    score: float
    """How sure the detector is, 0 to 1."""
    direction_deg: float | None = None
    """Where it came from: degrees counter-clockwise from the array's first microphone; None if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of an utterance."""

    name: str
    """`wake`, `record`, `transcribe`, `reply`, `synthesize` or `play`."""
    outcome: str
    """`ok`, or in a word what it came to: `timeout`, `refused`, `failed`, `empty`, `interrupted`."""
    started_ms: float
    """Since the wake word."""
    took_ms: float
    by: str = ""
    """Who did it, such as `local` or `wyoming voice-vm`."""
    problem: str = ""


@event("edge.voice.utterance", privacy=Privacy.LOCAL, durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance from the wake word to the end of the answer: where the time went. Never the sound itself."""

    utterance_id: str
    outcome: str
    """`answered`, or the outcome of the stage that it ended in."""
    word: str = ""
    text: str = ""
    """What was said; empty if config keeps it out."""
    reply: str = ""
    intent: str = ""
    direction_deg: float | None = None
    audio_s: float = 0.0
    first_audio_ms: float | None = None
    """From the decision that the speaker has ended to the first sound of the answer."""
    stages: list[Stage] = field(default_factory=list)
