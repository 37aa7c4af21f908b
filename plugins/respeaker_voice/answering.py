"""From what was heard to the answer: text, reply, speech, playback, and the trace of it all.

One utterance is answered at a time. A wake word in the midst of an answer ends it at once and begins the next; whatever
fails ends in a trace, in a state of the service, and in something said if anything can still be said.
"""

from __future__ import annotations

import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from sparkd import (
    CallError,
    Context,
    DeviceError,
    Dialog,
    Privacy,
    Reply,
    StorageError,
    Transcript,
    Troubles,
    Utterance,
    Wake,
)

from .answer_config import AnswerConfig
from .dialog import BuiltInDialog, has_words
from .happenings import Ended, Happening, Voice, Woken
from .keeping import Keeping
from .playback import Player, player
from .providers import Providers, provider
from .recording import Recording
from .ring import Ring, RingState
from .trace import Attempt, Trace, TraceMetrics

ERROR_S = 2.0
"""So long the ring is red."""


class Ears(Protocol):
    """The part of the listening half that answering needs."""

    def speaking(self, *, on: bool) -> None:
        """Say whether this node itself is heard now."""
        ...

    def listen(self) -> None:
        """Begin an utterance without a wake word."""
        ...


@dataclass(slots=True)
class Current:
    """The utterance under way."""

    woken: Woken
    degrees: float | None
    recording: Recording = field(default_factory=Recording)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    done: anyio.Event = field(default_factory=anyio.Event)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    transcript: Transcript | None = None
    reply: Reply | None = None
    first_audio_ms: float | None = None


class Answering:
    """Answers what is heard."""

    def __init__(
        self,
        ctx: Context[Any],
        config: AnswerConfig,
        *,
        ring: Ring,
        troubles: Troubles,
        ears: Ears,
        loudspeaker: Player | None = None,
    ) -> None:
        """Answer as *config* says, by whom *ctx* reaches; *loudspeaker* stands in for the configured one."""
        self._ctx, self._config, self._ring, self._troubles, self._ears = ctx, config, ring, troubles, ears
        self._player = loudspeaker or player(config.playback)
        self._dialog = BuiltInDialog(ctx, config.dialog)
        self._keeping = Keeping(ctx.state_dir / "utterances", config.keep, troubles)
        self._metrics = TraceMetrics(ctx.metrics)
        listed = [(job, [(spec, provider(ctx, spec, config)) for spec in specs]) for job, specs in self._jobs()]
        self._stt, self._tts = (Providers(job, ones, retry_s=config.retry_s, troubles=troubles) for job, ones in listed)
        self._current: Current | None = None

    async def serve(self) -> None:
        """Offer the built-in answers to whoever asks, as `dialog`."""
        await self._ctx.serve(Dialog, self._dialog)

    async def run(self, happenings: MemoryObjectReceiveStream[tuple[Happening, float | None]]) -> None:
        """Answer until there is nothing more to hear, or cancelled."""
        async with happenings, anyio.create_task_group() as around:
            around.start_soon(self._keeping.forget)
            async with anyio.create_task_group() as group:
                async for happening, degrees in happenings:
                    await self._take(happening, degrees, group)
            around.cancel_scope.cancel()

    async def _take(self, happening: Happening, degrees: float | None, group: TaskGroup) -> None:
        if isinstance(happening, Woken):
            await self._begin(Current(happening, degrees), group)
        elif self._current is not None and isinstance(happening, Voice):
            self._current.recording.add(happening.pcm)
        elif self._current is not None and isinstance(happening, Ended):
            self._current.recording.end(happening)

    def _jobs(self) -> tuple[tuple[str, tuple[Any, ...]], tuple[str, tuple[Any, ...]]]:
        return ("stt", self._config.stt), ("tts", self._config.tts)

    async def _begin(self, current: Current, group: TaskGroup) -> None:
        before = self._current
        if before is not None:
            before.scope.cancel()
            await before.done.wait()
        self._current = current
        group.start_soon(self._whole, current, group)

    async def _whole(self, current: Current, group: TaskGroup) -> None:
        """Answer one utterance, and tell of it; its sound is kept by *group*, so that no disk holds up an answer."""
        trace = Trace(current.woken.at)
        outcome = "interrupted"
        try:
            with current.scope:
                outcome = await self._guarded(current, trace)
            with anyio.CancelScope(shield=True):
                await self._told(current, trace, outcome)
        finally:
            self._ears.speaking(on=False)
            current.done.set()
            if current.recording.ended is not None:
                group.start_soon(self._keeping.keep, current.id, current.recording.pcm)

    async def _guarded(self, current: Current, trace: Trace) -> str:
        """Return what came of it; a fault of ours over one utterance must not make the service deaf."""
        try:
            return await self._answered(current, trace)
        except Exception as error:
            self._ctx.log.error("utterance-failed", exc_info=error, utterance=current.id)  # noqa: TRY400 - not a Logger
            await self._show("error")
            await anyio.sleep(ERROR_S)
            await self._show("idle")
            return "failed"

    async def _answered(self, current: Current, trace: Trace) -> str:
        """Return what came of it."""
        await self._wake(current)
        await self._show("listen", degrees=current.degrees)
        async with anyio.create_task_group() as group:
            group.start_soon(self._until_spoken, current, trace, group.cancel_scope)
            current.transcript = await self._stt.transcribe(current.recording, trace, language=self._config.language)
            if not current.recording.over.is_set():  # nobody can hear; the speaker is not cut off for it
                await current.recording.over.wait()
        ended = current.recording.ended
        if ended is None or ended.reason in ("nothing", "lost"):
            await self._show("idle")
            return "empty" if ended is not None and ended.reason == "nothing" else "failed"
        if current.transcript is None:
            return await self._sorry(current, trace)
        if not has_words(current.transcript.text):
            await self._show("idle")
            return "empty"
        current.reply = await self._reply(current, trace, current.transcript.text)
        return await self._speak(current, trace, current.reply)

    async def _wake(self, current: Current) -> None:
        woken = current.woken
        if woken.word:
            said = Wake(
                utterance_id=current.id, word=woken.word, score=woken.score, direction_deg=_rounded(current.degrees)
            )
            await self._ctx.bus.publish(said, privacy=self._privacy)

    async def _until_spoken(self, current: Current, trace: Trace, hearing: anyio.CancelScope) -> None:
        """Time the recording; what nobody said is not turned into text."""
        with trace.stage("record", since=current.woken.at) as attempt:
            await current.recording.over.wait()
            ended = current.recording.ended
            if ended is not None and ended.reason in ("nothing", "lost"):
                attempt.failed("empty" if ended.reason == "nothing" else "failed", _REASONS[ended.reason])
        if attempt.outcome != "ok":
            hearing.cancel()
            return
        await self._show("think")

    async def _reply(self, current: Current, trace: Trace, text: str) -> Reply:
        """Ask whoever config names; if that fails, the built-in intents."""
        wanted = self._config.dialog
        asked: dict[str, Any] = {
            "text": text,
            "utterance_id": current.id,
            "language": self._config.language,
            "direction_deg": _rounded(current.degrees),
        }
        if wanted.service:
            name = f"{wanted.node}/{wanted.service}" if wanted.node else wanted.service
            with trace.stage("reply", by=name) as attempt:
                dialog = self._ctx.call(
                    Dialog,
                    node=wanted.node or None,
                    service=wanted.service,
                    deadline_s=wanted.deadline_s,
                    privacy=self._privacy,
                )
                try:
                    reply = await dialog.reply(**asked)
                except CallError as error:
                    attempt.failed("failed", error)
                    self._troubles.say("dialog", f"{name} does not answer: {error}", f"sparkctl status {name}")
                else:
                    self._troubles.over("dialog")
                    return reply
        with trace.stage("reply", by="built-in"):
            reply = await self._dialog.reply(**asked)
        apology = wanted.unreachable if wanted.service and not reply.intent else ""
        return Reply(text=apology) if apology else reply

    async def _sorry(self, current: Current, trace: Trace) -> str:
        await self._show("error")
        if self._config.dialog.unheard:
            await self._speak(current, trace, Reply(text=self._config.dialog.unheard))
        else:
            await anyio.sleep(ERROR_S)
            await self._show("idle")
        return "failed"

    async def _speak(self, current: Current, trace: Trace, reply: Reply) -> str:
        if not has_words(reply.text):
            return await self._over(reply)
        await self._show("speak")
        try:
            await self._play(current, trace, reply.text)
        except DeviceError as error:
            self._troubles.set("answer", error)
            await self._show("error")
            await anyio.sleep(ERROR_S)
            await self._show("idle")
            return "failed"
        self._troubles.over("answer")
        return await self._over(reply)

    async def _over(self, reply: Reply) -> str:
        await self._show("idle")
        if reply.listen:
            self._ears.listen()
        return "answered"

    async def _play(self, current: Current, trace: Trace, text: str) -> None:
        """Speak *text* and play it; the ears know when this node hears itself."""
        begun: list[float] = []

        def started() -> None:
            begun.append(time.monotonic())
            self._ears.speaking(on=True)
            ended = current.recording.ended
            if ended is not None:
                current.first_audio_ms = round((begun[0] - ended.at) * 1000, 1)

        attempt = Attempt("play", self._config.playback.kind, "interrupted")
        try:
            async with aclosing(self._tts.speak(text, trace)) as sounds:
                await self._player.play(sounds, started=started)
            attempt.outcome = "ok"
            if begun:
                await anyio.sleep(self._config.playback.tail_s)
        except DeviceError as error:
            attempt.failed("failed", error)
            raise
        finally:
            self._ears.speaking(on=False)
            trace.add(attempt, begun[0] if begun else time.monotonic(), time.monotonic())

    async def _told(self, current: Current, trace: Trace, outcome: str) -> None:
        """Publish the trace of an utterance, and count it. A disk that refuses it is told."""
        if outcome == "interrupted":
            await self._show("idle")
        ended, words = current.recording.ended, self._config.publish_text
        told = Utterance(
            utterance_id=current.id,
            outcome=outcome,
            word=current.woken.word,
            text=current.transcript.text if current.transcript and words else "",
            reply=current.reply.text if current.reply and words else "",
            intent=current.reply.intent if current.reply else "",
            direction_deg=_rounded(current.degrees),
            audio_s=ended.audio_s if ended else 0.0,
            first_audio_ms=current.first_audio_ms,
            stages=trace.stages,
        )
        self._metrics.count(outcome, trace.stages, current.first_audio_ms)
        try:
            await self._ctx.bus.publish(told, privacy=self._privacy)
        except StorageError as error:
            remedy = "free space on the disk of the state folder"
            self._troubles.say("trace", f"the trace of an utterance is lost: {error}", remedy)
        else:
            self._troubles.over("trace")

    async def _show(self, state: RingState, *, degrees: float | None = None) -> None:
        """Show *state* on the ring. One that cannot is told, and is no reason to stop."""
        await self._ring.show(state, degrees=degrees)
        self._troubles.set("ring", self._ring.trouble)

    @property
    def _privacy(self) -> Privacy:
        return Privacy.parse(self._config.privacy)


_REASONS = {"nothing": "nobody spoke after the wake word", "lost": "the microphone went in the midst of it"}


def _rounded(degrees: float | None) -> float | None:
    return None if degrees is None else round(degrees, 1)
