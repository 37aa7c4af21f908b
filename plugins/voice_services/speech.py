"""Answers `speech`, and what the Wyoming server offers: the same engines, the same limits, the same numbers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram

from sparkd import (
    CallError,
    CallErrorKind,
    DeviceError,
    Privacy,
    Sound,
    Speaker,
    Transcript,
    Troubles,
    current_call,
    strictest,
)
from sparkd_plugins.wyoming_wire import info
from sparkd_plugins.wyoming_wire.server import Detector

from .analytics import Analyst, Heard
from .config import VoiceServicesConfig
from .speaking import Speaking
from .whisper import RATE_HZ, Whisper


class Meters:
    """What the service counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the metrics in *registry*."""
        self._requests = Counter(
            "sparkd_voice_requests", "Requests by engine and outcome", ["engine", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "sparkd_voice_seconds",
            "Time of a request",
            ["engine"],
            registry=registry,
            buckets=(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
        )

    @contextmanager
    def request(self, engine: str) -> Iterator[None]:
        """Count what is done within, and time it."""
        begin = time.monotonic()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except CallError as error:
            outcome = error.kind
            raise
        except DeviceError:
            outcome = "failed"
            raise
        finally:
            self._requests.labels(engine, outcome).inc()
            self._seconds.labels(engine).observe(time.monotonic() - begin)


class Voices:
    """All engines of this node. Raises DeviceError for what they cannot do, CallError for what they will not."""

    def __init__(
        self,
        config: VoiceServicesConfig,
        *,
        hearing: Whisper | None,
        speaking: Sequence[Speaking],
        health: Troubles,
        meters: Meters,
        analyst: Analyst | None,
    ) -> None:
        """Hear with *hearing*, speak with the first of *speaking* that can."""
        self._config = config
        self._hearing = hearing
        self._speaking = speaking
        self._health = health
        self._meters = meters
        self._analyst = analyst

    async def hear(self, pcm: bytes, *, rate_hz: int, language: str, privacy: Privacy) -> Transcript:
        """Return what is said in *pcm*; its numbers travel no further than *privacy*."""
        if self._hearing is None:
            raise DeviceError('there is no speech to text here: stt = "none"', remedy="set stt, or ask another node")
        begin = time.monotonic()
        engine = self._hearing.engine
        with self._meters.request(engine), self._health.watching(engine):
            if problem := self._hearing.missing():
                raise problem
            at_rate = await anyio.to_thread.run_sync(_at_rate, pcm, rate_hz)
            text, heard = await self._hearing.transcribe(at_rate, language=language)
        transcript = Transcript(
            text=text,
            language=heard,
            engine=f"{engine} {self._hearing.model}",
            audio_s=round(len(pcm) / 2 / rate_hz, 3),
            took_s=round(time.monotonic() - begin, 3),
        )
        if self._analyst is not None:
            own = Privacy.parse(self._config.privacy)
            self._analyst.offer(Heard(pcm, rate_hz, transcript, strictest(own, privacy)))
        return transcript

    async def speak(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        """Speak *text* with *voice*, or with the first voice for *language*, or with the first of all."""
        engine, name = await self._chosen(voice, language)
        with self._meters.request(engine.engine), self._health.watching(engine.engine):
            async for sound in engine.speak(text, voice=name):
                yield sound

    async def speakers(self) -> list[Speaker]:
        """Return all voices, the default one first."""
        found = []
        for engine in self._speaking:
            if engine.missing() is None:
                with self._health.watching(engine.engine):
                    found += await engine.speakers()
        return found

    async def describe(self) -> dict[str, Any]:
        """Return the data of Wyoming's `info`."""
        can_hear = self._hearing is not None and self._hearing.missing() is None
        return {
            "asr": info.asr(self._hearing.engine, self._hearing.model, self._hearing.languages)
            if can_hear and self._hearing
            else [],
            "tts": info.tts(await self.speakers()),
        }

    async def _chosen(self, voice: str, language: str) -> tuple[Speaking, str]:
        speakers = await self.speakers()
        if not speakers:
            problems = [problem for engine in self._speaking if (problem := engine.missing())]
            raise problems[0] if problems else DeviceError("there is no text to speech here: tts = []")
        if voice and voice not in {speaker.name for speaker in speakers}:
            some = ", ".join(speaker.name for speaker in speakers[:5])
            raise CallError(CallErrorKind.INVALID_PARAMS, f"unknown voice {voice!r}; voices: {some} ...", field="voice")
        chosen = next((speaker for speaker in speakers if _fits(speaker, voice, language)), None)
        if chosen is None:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"no voice for language {language!r}", field="language")
        return next(engine for engine in self._speaking if engine.engine == chosen.engine), chosen.name


class SpeechCalls:
    """Answers `speech`."""

    def __init__(self, voices: Voices, config: VoiceServicesConfig) -> None:
        """Answer with *voices*, within the limits of *config*."""
        self._voices = voices
        self._config = config

    async def transcribe(self, *, audio: AsyncIterator[bytes], rate_hz: int = 16_000, language: str = "") -> Transcript:
        """Return what is said."""
        if not 8_000 <= rate_hz <= 48_000:  # noqa: PLR2004 - what microphones give
            raise _refusal("rate_hz", f"{rate_hz}: 8000 to 48000 expected")
        sound = bytearray()
        async for piece in audio:
            sound += piece
            if len(sound) > self._config.max_audio_s * rate_hz * 2:
                raise _refusal("audio", f"an utterance of more than max_audio_s = {self._config.max_audio_s:g} s")
        pcm = bytes(sound[: len(sound) // 2 * 2])
        with _answered():
            return await self._voices.hear(pcm, rate_hz=rate_hz, language=language, privacy=current_call().privacy)

    async def synthesize(self, *, text: str, voice: str = "", language: str = "") -> AsyncIterator[Sound]:
        """Speak."""
        if len(text) > self._config.max_text_chars:
            raise _refusal("text", f"{len(text)} characters, more than max_text_chars = {self._config.max_text_chars}")
        with _answered():
            async for sound in self._voices.speak(text, voice=voice, language=language):
                yield sound

    async def voices(self) -> list[Speaker]:
        """List the voices."""
        with _answered():
            return await self._voices.speakers()


class WyomingOffer:
    """The same for Wyoming clients. Nobody says how private their sound is: the config does."""

    def __init__(self, voices: Voices, privacy: Privacy) -> None:
        """Offer *voices*; what clients send is of the class *privacy*."""
        self._voices = voices
        self._privacy = privacy

    async def describe(self) -> Mapping[str, Any]:
        """Return the data of `info`."""
        return await self._voices.describe()

    async def transcribe(self, pcm: bytes, *, rate_hz: int, language: str) -> Transcript:
        """Return what is said."""
        return await self._voices.hear(pcm, rate_hz=rate_hz, language=language, privacy=self._privacy)

    def synthesize(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        """Speak."""
        return self._voices.speak(text, voice=voice, language=language)

    def detector(self, words: Sequence[str]) -> Detector:
        """Refuse: wake words are heard where the microphone is."""
        raise DeviceError(f"no wake words here, {len(words)} asked for", remedy="ask the node with the microphone")


def _fits(speaker: Speaker, voice: str, language: str) -> bool:
    if voice:
        return speaker.name == voice
    return not language or speaker.language.lower().partition("-")[0] == language.lower().partition("-")[0]


def _at_rate(pcm: bytes, rate_hz: int) -> bytes:
    if rate_hz == RATE_HZ:
        return pcm
    from .hearing import resample  # noqa: PLC0415 - brings numpy, which probing must not pay for

    return resample(pcm, rate_hz, RATE_HZ)


def _refusal(field: str, reason: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, f"{field}: {reason}", field=field)


@contextmanager
def _answered() -> Iterator[None]:
    """Turn what an engine cannot do into the answer that a caller gets."""
    try:
        yield
    except DeviceError as error:
        raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy=error.remedy) from error
