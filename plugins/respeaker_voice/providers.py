"""Who turns speech into text and text into speech: the first in the list that can, each with a deadline.

One that fails is passed over for a while, as long as there is another; if all have failed lately all are tried, for
that costs nobody anything. The sound of an utterance goes to a provider while it is spoken, and from its beginning to
the next one if that fails. An answer that has begun to sound is not begun again by another voice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, cast

import anyio

from sparkd import CallError, Context, DeviceError, Privacy, Sound, Speech, Transcript, Troubles

from .answer_config import AnswerConfig, ProviderConfig
from .recording import RATE_HZ, Recording
from .trace import Attempt, Trace
from .wyoming_client import WyomingSpeech

CALL_S = 90.0
"""The deadline of a call: longer than any utterance and any answer. The deadlines that count are kept here."""


class Provider(Protocol):
    """One that hears and speaks. Raises DeviceError or CallError."""

    async def transcribe(self, audio: AsyncIterator[bytes], *, language: str) -> Transcript:
        """Return what is said in *audio*."""
        ...

    def synthesize(self, text: str) -> AsyncIterator[Sound]:
        """Speak *text*."""
        ...


class CalledSpeech:
    """`speech` of a service, on this node or another: the link keeps what is private from nodes of other sites."""

    def __init__(self, speech: Speech, voice: str, language: str) -> None:
        """Call *speech*; speak with *voice*."""
        self._speech, self._voice, self._language = speech, voice, language

    async def transcribe(self, audio: AsyncIterator[bytes], *, language: str) -> Transcript:
        """Return what is said."""
        return await self._speech.transcribe(audio=audio, rate_hz=RATE_HZ, language=language)

    async def synthesize(self, text: str) -> AsyncIterator[Sound]:
        """Speak."""
        language = "" if self._voice else self._language
        async for sound in self._speech.synthesize(text=text, voice=self._voice, language=language):
            yield sound


class WyomingProvider:
    """A Wyoming server."""

    def __init__(self, client: WyomingSpeech, voice: str) -> None:
        """Ask *client*; speak with *voice*."""
        self._client, self._voice = client, voice

    async def transcribe(self, audio: AsyncIterator[bytes], *, language: str) -> Transcript:
        """Return what is said."""
        return await self._client.transcribe(audio, rate_hz=RATE_HZ, language=language)

    def synthesize(self, text: str) -> AsyncIterator[Sound]:
        """Speak."""
        return self._client.synthesize(text, voice=self._voice)


def provider(ctx: Context[object], spec: ProviderConfig, answer: AnswerConfig) -> Provider:
    """Return the provider that *spec* describes. What it is given is of the class that *answer* says."""
    if spec.kind == "wyoming":
        return WyomingProvider(WyomingSpeech(spec.host, spec.port, connect_s=spec.connect_s), spec.voice)
    speech = ctx.call(
        Speech,
        node=spec.node or None,
        service=spec.service or None,
        deadline_s=CALL_S,
        privacy=Privacy.parse(answer.privacy),
    )
    return CalledSpeech(speech, spec.voice, answer.language)


@dataclass(slots=True)
class Listed:
    """One in the list. Two may be called the same, so its place is what tells it from the others."""

    place: int
    spec: ProviderConfig
    one: Provider
    failed_at: float | None = None


class Providers:
    """An ordered list of providers for one job, `stt` or `tts`."""

    def __init__(
        self,
        job: str,
        list_: Sequence[tuple[ProviderConfig, Provider]],
        *,
        retry_s: float,
        troubles: Troubles,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        """Try *list_* in order. That none of it works is told to *troubles* under the name *job*."""
        self._job, self._retry_s, self._troubles, self._now = job, retry_s, troubles, now
        self._list = [Listed(place, spec, one) for place, (spec, one) in enumerate(list_, 1)]

    async def transcribe(self, recording: Recording, trace: Trace, *, language: str) -> Transcript | None:
        """Return what is said in *recording*, heard while it is spoken; None if nobody can tell."""
        for listed in self._order():
            with trace.stage("transcribe", by=listed.spec.name) as attempt:
                with recording.limit(listed.spec.deadline_s) as scope:
                    try:
                        transcript = await listed.one.transcribe(recording.stream(), language=language)
                    except (DeviceError, CallError) as error:
                        self._note(listed, attempt, "failed", error)
                        continue
                    self._worked(listed)
                    return transcript
                if scope.cancelled_caught:
                    self._note(listed, attempt, "timeout", f"no text within {listed.spec.deadline_s:g} s")
        return None

    async def speak(self, text: str, trace: Trace) -> AsyncGenerator[Sound, None]:
        """Speak *text*: yields the sound. Raises DeviceError if nobody can, or if who has begun does not end."""
        why = "no text to speech is configured"
        for listed in self._order():
            sounds = cast("AsyncGenerator[Sound, None]", listed.one.synthesize(text))
            async with aclosing(sounds):
                with trace.stage("synthesize", by=listed.spec.name) as attempt:
                    first = await self._first(listed, sounds, attempt)
                if first is None:
                    why = _named(listed.spec.name, attempt.problem)
                    continue
                yield first
                async for sound in self._rest(listed, sounds):
                    yield sound
                self._worked(listed)
                return
        raise DeviceError(f"nobody speaks: {why}", remedy="look at the services and servers in answer.tts")

    async def _first(self, listed: Listed, sounds: AsyncIterator[Sound], attempt: Attempt) -> Sound | None:
        try:
            with anyio.fail_after(listed.spec.deadline_s):
                return await anext(sounds)
        except TimeoutError:
            self._note(listed, attempt, "timeout", f"no sound within {listed.spec.deadline_s:g} s")
        except StopAsyncIteration:
            self._note(listed, attempt, "failed", "it sent no sound")
        except (DeviceError, CallError) as error:
            self._note(listed, attempt, "failed", error)
        return None

    async def _rest(self, listed: Listed, sounds: AsyncIterator[Sound]) -> AsyncIterator[Sound]:
        spec = listed.spec
        while True:
            try:
                with anyio.fail_after(spec.deadline_s):
                    sound = await anext(sounds)
            except StopAsyncIteration:
                return
            except (DeviceError, CallError, TimeoutError) as error:
                listed.failed_at = self._now()
                why = str(error) or f"nothing for {spec.deadline_s:g} s"
                raise DeviceError(f"{spec.name}: stopped in the middle of the answer: {why}") from error
            yield sound

    def _order(self) -> list[Listed]:
        """Return all, those first that have not failed lately."""
        now = self._now()
        return sorted(self._list, key=lambda one: one.failed_at is not None and now - one.failed_at < self._retry_s)

    def _note(self, listed: Listed, attempt: Attempt, outcome: str, problem: object) -> None:
        attempt.failed(outcome, problem)
        listed.failed_at = self._now()
        remedy = getattr(problem, "remedy", "") or f"look at answer.{self._job} and at who is named there"
        said = f"{self._job}: {_named(listed.spec.name, attempt.problem)}"
        self._troubles.say(f"{self._job} {listed.place}", said, remedy)

    def _worked(self, listed: Listed) -> None:
        listed.failed_at = None
        self._troubles.over(f"{self._job} {listed.place}")


def _named(name: str, problem: str) -> str:
    """Return *problem* with who has it, unless it says so itself."""
    return problem if problem.startswith(name) else f"{name}: {problem}"
