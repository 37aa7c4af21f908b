"""A rig for the answering half: a context that records, speech that does as it is told, a loudspeaker that counts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
from prometheus_client import CollectorRegistry

from sparkd import Context, Dialog, PowerMode, Privacy, Reply, Sound, Speech, Transcript, Troubles, Utterance, Wake
from sparkd_plugins.respeaker_voice.answer_config import AnswerConfig
from sparkd_plugins.respeaker_voice.answering import Answering
from sparkd_plugins.respeaker_voice.happenings import Ended, EndReason, Happening, Voice, Woken
from sparkd_plugins.respeaker_voice.ring import Ring, RingState

PIECE = bytes(640)


class FakeSpeech:
    """Hears `text`, speaks three pieces; or does what `hears` and `speaks` say."""

    def __init__(self, text: str = "what time is it") -> None:
        self.text = text
        self.heard: list[bytes] = []
        self.spoken: list[str] = []
        self.hears: Callable[[], Awaitable[None]] | None = None
        self.speaks: Callable[[int], Awaitable[None]] | None = None

    async def transcribe(self, *, audio: AsyncIterator[bytes], rate_hz: int = 16_000, language: str = "") -> Transcript:
        assert rate_hz == 16_000
        if self.hears is not None:
            await self.hears()
        self.heard.append(b"".join([piece async for piece in audio]))
        return Transcript(text=self.text, language=language)

    async def synthesize(self, *, text: str, voice: str = "", language: str = "") -> AsyncIterator[Sound]:
        self.spoken.append(text)
        for index in range(3):
            if self.speaks is not None:
                await self.speaks(index)
            yield Sound(pcm=PIECE, rate_hz=16_000)


class Loudspeaker:
    """Takes sound; `gate` holds it back after the first piece, `breaks` is raised then."""

    def __init__(self) -> None:
        self.played: list[bytes] = []
        self.gate: anyio.Event | None = None
        self.begun = anyio.Event()
        self.breaks: Exception | None = None

    async def play(self, sounds: AsyncIterator[Sound], *, started: Callable[[], None]) -> None:
        async for sound in sounds:
            if not self.begun.is_set():
                started()
                self.begun.set()
            if self.breaks is not None:
                raise self.breaks
            if self.gate is not None:
                await self.gate.wait()
            self.played.append(sound.pcm)


class Lights(Ring):
    """A ring that remembers what it showed."""

    def __init__(self) -> None:
        super().__init__(None)
        self.shown: list[str] = []

    async def show(self, state: RingState, *, degrees: float | None = None) -> None:
        self.shown.append(state)


@dataclass
class Rig:
    """The context, the ears and all that was told."""

    state_dir: Path
    config: AnswerConfig
    speech: dict[str, Any] = field(default_factory=lambda: {"": FakeSpeech()})
    """By service, or else by node; nothing for this one."""
    dialogs: dict[str, Any] = field(default_factory=dict)
    node: str = "spark-agent"
    site: str = "home"
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    published: list[tuple[Any, Privacy | None]] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    modes: list[PowerMode] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    speaking_now: list[bool] = field(default_factory=list)
    listened: int = 0
    refuses: Exception | None = None
    """What publishing an utterance raises."""
    loudspeaker: Loudspeaker = field(default_factory=Loudspeaker)
    ring: Lights = field(default_factory=Lights)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def bus(self) -> Rig:
        return self

    log = bus

    @property
    def context(self) -> Context[Any]:
        return cast("Context[Any]", self)

    def error(self, event: str, **fields: object) -> None:
        self.errors.append(f"{event} {fields.get('exc_info')!r}")

    def call(self, interface: type[Any], *, node: str | None = None, service: str | None = None, **how: Any) -> Any:
        self.calls.append({"interface": interface, "node": node, "service": service, **how})
        return self.speech[service or node or ""] if interface is Speech else self.dialogs[service or ""]

    async def request(self, method: str, **_how: Any) -> Any:
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def retained(self, _what: type[Any]) -> list[Any]:
        return [type("Received", (), {"event": mode})() for mode in self.modes]

    async def publish(self, event: Any, *, privacy: Privacy | None = None) -> None:
        if self.refuses is not None and isinstance(event, Utterance):
            raise self.refuses
        self.published.append((event, privacy))
        self.changed.set()
        self.changed = anyio.Event()

    async def serve(self, interface: type[Any], handler: Any) -> None:
        assert interface is Dialog
        self.dialogs["own"] = handler

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.states.append("recovered")

    def speaking(self, *, on: bool) -> None:
        self.speaking_now.append(on)

    def listen(self) -> None:
        self.listened += 1

    @property
    def traces(self) -> list[Utterance]:
        return [event for event, _ in self.published if isinstance(event, Utterance)]

    @property
    def wakes(self) -> list[Wake]:
        return [event for event, _ in self.published if isinstance(event, Wake)]

    async def trace(self, count: int = 1) -> Utterance:
        """Return the *count*th trace, once it is there."""
        with anyio.fail_after(10):
            while len(self.traces) < count:
                await self.changed.wait()
        return self.traces[count - 1]


class Mouth:
    """Says things to the answering half."""

    def __init__(self, send: Any) -> None:
        self._send = send

    async def say(self, *, pcm: bytes = PIECE * 50, reason: EndReason = "silence", word: str = "okay_nabu") -> None:
        await self.wake(word=word)
        await self.tell(Voice(pcm))
        await self.end(reason)

    async def wake(self, *, word: str = "okay_nabu", barge_in: bool = False) -> None:
        await self.tell(Woken(word, 0.9, time.monotonic(), barge_in=barge_in), 42.04)

    async def end(self, reason: EndReason = "silence") -> None:
        now = time.monotonic()
        await self.tell(Ended(reason, now, now - 0.7, 1.0))

    async def tell(self, happening: Happening, degrees: float | None = None) -> None:
        await self._send.send((happening, degrees))


@asynccontextmanager
async def answering(rig: Rig) -> AsyncIterator[Mouth]:
    """Run the answering half of *rig*."""
    made = Answering(
        rig.context,
        rig.config,
        ring=rig.ring,
        troubles=Troubles(rig),
        ears=rig,
        loudspeaker=rig.loudspeaker,
    )
    await made.serve()
    send, receive = anyio.create_memory_object_stream[tuple[Happening, float | None]](100)
    async with send, anyio.create_task_group() as group:
        group.start_soon(made.run, receive)
        yield Mouth(send)
        group.cancel_scope.cancel()


def stages(trace: Utterance) -> list[tuple[str, str, str]]:
    """Return (name, who, outcome) of each stage."""
    return [(stage.name, stage.by, stage.outcome) for stage in trace.stages]


def dialog(answer: Reply | Exception) -> Any:
    """Return a handler of `dialog` that gives *answer*."""

    class Handler:
        asked: list[dict[str, Any]] = []  # noqa: RUF012 - one handler a class

        async def reply(self, **asked: Any) -> Reply:
            self.asked.append(asked)
            if isinstance(answer, Exception):
                raise answer
            return answer

    return Handler()
