"""Measure what was heard, after the answer has gone out, and publish the numbers."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, Counter

from sparkd import AnalyticsEvent, Context, Privacy, StorageError, Transcript

from .config import VoiceServicesConfig

MAX_PENDING = 8
"""So many utterances wait to be measured; each is a minute of sound at the most. More are not measured, and counted."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An utterance that was transcribed."""

    pcm: bytes
    rate_hz: int
    transcript: Transcript
    privacy: Privacy


class Analyst:
    """Measures one utterance at a time, in a thread."""

    def __init__(self, ctx: Context[VoiceServicesConfig], registry: CollectorRegistry) -> None:
        """Publish to the bus of *ctx*."""
        self._ctx = ctx
        self._send, self._receive = anyio.create_memory_object_stream[Heard](MAX_PENDING)
        self._measured = Counter(
            "sparkd_voice_measured", "Utterances measured for analytics, by outcome", ["outcome"], registry=registry
        )

    def offer(self, heard: Heard) -> None:
        """Measure *heard* when there is time; never waits."""
        try:
            self._send.send_nowait(heard)
        except anyio.WouldBlock:
            self._measured.labels("dropped").inc()

    async def run(self) -> None:
        """Measure until cancelled."""
        with self._send, self._receive:
            async for heard in self._receive:
                await self._measure(heard)

    async def _measure(self, heard: Heard) -> None:
        from .hearing import measure  # noqa: PLC0415 - brings numpy, which probing must not pay for

        numbers = await anyio.to_thread.run_sync(measure, heard.pcm, heard.rate_hz)
        attributes: dict[str, str | int | float | bool] = {
            "audio_s": heard.transcript.audio_s,
            "took_s": heard.transcript.took_s,
            "words": len(heard.transcript.text.split()),
            "engine": heard.transcript.engine,
            **numbers,
        }
        if heard.transcript.language:
            attributes["language"] = heard.transcript.language
        try:
            event = AnalyticsEvent(name="voice.utterance", attributes=attributes)
            await self._ctx.bus.publish(event, privacy=heard.privacy)
        except StorageError as error:
            self._measured.labels("not-stored").inc()
            self._ctx.log.warning("analytics-not-stored", reason=str(error))
        else:
            self._measured.labels("ok").inc()
