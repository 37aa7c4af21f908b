"""From what was heard to the answer: the trace of each way it can go, and that none of them leaves it deaf."""

from __future__ import annotations

import os
import threading
import wave
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import CallError, CallErrorKind, DeviceError, Privacy, Reply, StorageError
from sparkd_plugins.respeaker_voice import answering as module
from sparkd_plugins.respeaker_voice import keeping
from sparkd_plugins.respeaker_voice.answer_config import (
    AnswerConfig,
    DialogConfig,
    KeepConfig,
    PlaybackConfig,
    ProviderConfig,
)
from sparkd_plugins.respeaker_voice.happenings import Voice
from sparkd_plugins.respeaker_voice.keeping import Keeping
from tests.plugins.answered import PIECE, FakeSpeech, Rig, answering, dialog, stages

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ERROR_S", 0.01)


def rig(tmp_path: Path, **config: Any) -> Rig:
    return Rig(tmp_path, AnswerConfig(playback=PlaybackConfig(kind="none", tail_s=0.0), **config))


async def test_an_utterance_is_answered_and_traced(tmp_path: Path) -> None:
    made = rig(tmp_path)
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()

    assert (trace.outcome, trace.text, trace.intent, trace.word) == ("answered", "what time is it", "time", "okay_nabu")
    assert trace.reply.startswith("It is ")
    assert stages(trace) == [
        ("record", "", "ok"),
        ("transcribe", "local", "ok"),
        ("reply", "built-in", "ok"),
        ("synthesize", "local", "ok"),
        ("play", "none", "ok"),
    ]
    assert trace.direction_deg == 42.0
    assert trace.first_audio_ms is not None
    assert 0 <= trace.first_audio_ms < 5000
    assert made.loudspeaker.played == [PIECE] * 3
    assert made.speech[""].heard == [PIECE * 50]
    assert made.ring.shown == ["listen", "think", "speak", "idle"]
    assert made.speaking_now[0]
    assert not made.speaking_now[-1]
    (wake,) = made.wakes
    assert (wake.utterance_id, wake.word, wake.score) == (trace.utterance_id, "okay_nabu", 0.9)
    assert {privacy for _, privacy in made.published} == {Privacy.LOCAL}
    count = made.metrics.get_sample_value("sparkd_voice_utterances_total", {"outcome": "answered"})
    assert count == 1


async def test_words_stay_out_of_the_trace_if_config_says_so(tmp_path: Path) -> None:
    made = rig(tmp_path, publish_text=False, privacy="node")
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()
    assert (trace.text, trace.reply, trace.intent) == ("", "", "time")
    assert {privacy for _, privacy in made.published} == {Privacy.NODE}
    assert {call["privacy"] for call in made.calls} == {Privacy.NODE}


async def test_sound_goes_to_the_provider_while_it_is_spoken(tmp_path: Path) -> None:
    made, first = rig(tmp_path), anyio.Event()

    class Streams(FakeSpeech):
        async def transcribe(self, *, audio: Any, rate_hz: int = 16_000, language: str = "") -> Any:
            await anext(audio)
            first.set()
            return await super().transcribe(audio=audio, rate_hz=rate_hz, language=language)

    made.speech[""] = Streams()
    async with answering(made) as mouth:
        await mouth.wake()
        await mouth.tell(Voice(PIECE))
        with anyio.fail_after(5):
            await first.wait()
        await mouth.end()
        assert (await made.trace()).outcome == "answered"


@pytest.mark.parametrize(("reason", "outcome"), [("nothing", "empty"), ("lost", "failed")])
async def test_nothing_said_is_not_turned_into_text(tmp_path: Path, reason: Any, outcome: str) -> None:
    made = rig(tmp_path)
    async with answering(made) as mouth:
        await mouth.say(reason=reason)
        trace = await made.trace()
        assert trace.outcome == outcome
        assert not made.loudspeaker.played
        await mouth.say()
        assert (await made.trace(2)).outcome == "answered"
    assert made.ring.shown[:2] == ["listen", "idle"]


@pytest.mark.parametrize("text", ["", " ...", "\u266a"])
async def test_a_transcript_without_words_is_no_question(tmp_path: Path, text: str) -> None:
    made = rig(tmp_path)
    made.speech[""].text = text
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "empty"
    assert made.ring.shown[-1] == "idle"


async def test_the_next_provider_gets_the_utterance_from_its_beginning(tmp_path: Path) -> None:
    both = (ProviderConfig(kind="node", node="voice-vm"), ProviderConfig())
    made, good = rig(tmp_path, stt=both), FakeSpeech()
    failing = FakeSpeech()

    async def refuse() -> None:
        raise CallError(CallErrorKind.UNAVAILABLE, "no link to voice-vm")

    failing.hears = refuse
    made.speech = {"voice-vm": failing, "": good}
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()
        assert [(by, outcome) for name, by, outcome in stages(trace) if name == "transcribe"] == [
            ("node voice-vm", "failed"),
            ("local", "ok"),
        ]
        assert good.heard == [PIECE * 50]
        assert made.states == [
            "stt: node voice-vm: unavailable: no link to voice-vm (look at answer.stt and at who is named there)"
        ]

        await mouth.say()  # passed over now, as there is another
        assert [by for name, by, _ in stages(await made.trace(2)) if name == "transcribe"] == ["local"]


async def test_a_provider_that_hangs_costs_its_deadline_once(tmp_path: Path) -> None:
    both = (ProviderConfig(kind="node", node="voice-vm", deadline_s=0.1), ProviderConfig())
    made, hangs = rig(tmp_path, stt=both, tts=both), FakeSpeech()
    hangs.hears = anyio.sleep_forever
    hangs.speaks = lambda _: anyio.sleep_forever()
    made.speech = {"voice-vm": hangs, "": FakeSpeech()}
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()
    assert trace.outcome == "answered"
    assert [(by, outcome) for name, by, outcome in stages(trace) if name in ("transcribe", "synthesize")] == [
        ("node voice-vm", "timeout"),
        ("local", "ok"),
    ] * 2


async def test_when_nobody_can_hear_that_is_said_and_it_comes_back_by_itself(tmp_path: Path) -> None:
    made, broken = rig(tmp_path, retry_s=0.0), True

    async def hears() -> None:
        if broken:
            raise CallError(CallErrorKind.UNAVAILABLE, "nobody serves speech")

    made.speech[""].hears = hears
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "failed"
        assert made.speech[""].spoken == ["Sorry, I cannot understand speech at the moment."]
        assert "nobody serves speech" in made.states[0]
        broken = False
        await mouth.say()
        assert (await made.trace(2)).outcome == "answered"
    assert made.states[-1] == "recovered"
    assert not made.errors


async def test_when_nobody_can_speak_it_is_shown(tmp_path: Path) -> None:
    made = rig(tmp_path)

    async def dumb(_index: int) -> None:
        raise DeviceError("no voice", remedy="get one")

    made.speech[""].speaks = dumb
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "failed"
        made.speech[""].speaks = None
        await mouth.say()
        assert (await made.trace(2)).outcome == "answered"
    assert made.ring.shown[:5] == ["listen", "think", "speak", "error", "idle"]
    assert made.states[-1] == "recovered"


async def test_a_voice_that_dies_in_mid_answer_is_not_begun_again_by_another(tmp_path: Path) -> None:
    both = (ProviderConfig(kind="node", node="voice-vm"), ProviderConfig())
    made, dies = rig(tmp_path, tts=both), FakeSpeech()

    async def die(index: int) -> None:
        if index == 1:
            raise CallError(CallErrorKind.UNAVAILABLE, "the link is gone")

    dies.speaks = die
    made.speech = {"voice-vm": dies, "": FakeSpeech()}
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()
    assert trace.outcome == "failed"
    assert made.loudspeaker.played == [PIECE]
    assert not made.speech[""].spoken
    play = trace.stages[-1]
    assert (play.name, play.outcome) == ("play", "failed")
    assert "in the middle of the answer: unavailable: the link is gone" in play.problem


async def test_a_loudspeaker_that_is_gone_is_told_and_comes_back(tmp_path: Path) -> None:
    made = rig(tmp_path)
    made.loudspeaker.breaks = DeviceError("default: No such device", remedy="plug it in")
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "failed"
        assert made.states == ["default: No such device (plug it in)"]
        made.loudspeaker.breaks = None
        await mouth.say()
        assert (await made.trace(2)).outcome == "answered"
    assert made.states[-1] == "recovered"


@pytest.mark.parametrize("stage", ["record", "transcribe", "reply", "synthesize", "play"])
async def test_a_wake_word_ends_what_is_under_way_at_every_stage(tmp_path: Path, stage: str) -> None:
    made, reached = rig(tmp_path, dialog=DialogConfig(service="agent")), anyio.Event()

    async def stuck(*_: Any, **__: Any) -> Any:
        reached.set()
        await anyio.sleep_forever()

    speech = made.speech[""]
    made.dialogs["agent"] = asks = dialog(Reply(text="Hello."))
    if stage == "transcribe":
        speech.hears = stuck
    elif stage == "reply":
        asks.reply = stuck
    elif stage == "synthesize":
        speech.speaks = stuck
    elif stage == "play":
        made.loudspeaker.gate, reached = anyio.Event(), made.loudspeaker.begun
    async with answering(made) as mouth:
        if stage == "record":
            await mouth.wake()
        else:
            await mouth.say()
            with anyio.fail_after(5):
                await reached.wait()
        await mouth.wake(barge_in=True)
        trace = await made.trace()
        assert trace.outcome == "interrupted"
        assert (stage, "interrupted") in [(name, outcome) for name, _, outcome in stages(trace)]
        assert not made.speaking_now[-1]

        speech.hears = speech.speaks = made.loudspeaker.gate = None
        made.dialogs["agent"].__dict__.pop("reply", None)
        await mouth.tell(Voice(PIECE))
        await mouth.end()
        assert (await made.trace(2)).outcome == "answered"


async def test_an_answer_may_ask_back(tmp_path: Path) -> None:
    made = rig(tmp_path, dialog=DialogConfig(service="agent"))
    made.dialogs["agent"] = dialog(Reply(text="Which room?", listen=True))
    async with answering(made) as mouth:
        await mouth.say()
        await made.trace()
        assert made.listened == 1
        await mouth.say(word="")
        assert (await made.trace(2)).word == ""
    assert len(made.wakes) == 1
    asked = made.dialogs["agent"].asked[0]
    assert (asked["text"], asked["language"], asked["direction_deg"]) == ("what time is it", "en", 42.0)


async def test_the_built_in_answers_step_in_for_a_dialog_that_fails(tmp_path: Path) -> None:
    made = rig(tmp_path, dialog=DialogConfig(service="agent", deadline_s=3.0))
    made.dialogs["agent"] = dialog(CallError(CallErrorKind.DEADLINE, "no answer within 3 s"))
    async with answering(made) as mouth:
        await mouth.say()
        trace = await made.trace()
        assert ("reply", "agent", "failed") in stages(trace)
        assert trace.intent == "time"
        assert "agent does not answer" in made.states[-1]
        made.dialogs["agent"] = dialog(Reply(text="It is late."))
        await mouth.say()
        assert (await made.trace(2)).reply == "It is late."
    assert made.states[-1] == "recovered"


async def test_a_fault_of_ours_is_logged_and_does_not_make_it_deaf(tmp_path: Path) -> None:
    made = rig(tmp_path)

    async def fault() -> None:
        raise ZeroDivisionError("ours")

    made.speech[""].hears = fault
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "failed"
        made.speech[""].hears = None
        await mouth.say()
        assert (await made.trace(2)).outcome == "answered"
    assert len(made.errors) == 1


async def test_a_full_disk_loses_the_trace_and_says_so(tmp_path: Path) -> None:
    made = rig(tmp_path)
    made.refuses = StorageError("no space left")
    async with answering(made) as mouth:
        await mouth.say()
        with anyio.fail_after(5):
            while not made.states:
                await anyio.sleep(0.01)
        made.refuses = None
        await mouth.say()
        assert (await made.trace()).outcome == "answered"
    assert "the trace of an utterance is lost" in made.states[0]
    assert made.states[-1] == "recovered"


async def test_sound_is_kept_only_if_config_says_so(tmp_path: Path) -> None:
    for enabled in (False, True):
        made = rig(tmp_path, keep=KeepConfig(enabled=enabled))
        async with answering(made) as mouth:
            await mouth.say()
            trace = await made.trace()
            with anyio.fail_after(5):
                while enabled and not list((tmp_path / "utterances").glob("*.wav")):
                    await anyio.sleep(0.01)
        kept = list((tmp_path / "utterances").glob("*")) if enabled else [*tmp_path.iterdir()]
        assert [path.stem for path in kept] == ([trace.utterance_id] if enabled else [])
    with wave.open(str(kept[0])) as file:
        assert (file.getframerate(), file.readframes(file.getnframes())) == (16_000, PIECE * 50)
    assert (tmp_path / "utterances").stat().st_mode & 0o777 == 0o700


async def test_a_disk_that_hangs_holds_up_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, free = rig(tmp_path, keep=KeepConfig(enabled=True)), threading.Event()
    monkeypatch.setattr(Keeping, "_write", lambda *_: free.wait(20))
    monkeypatch.setattr(keeping, "HANG_S", 0.1)
    try:
        async with answering(made) as mouth:
            for count in (1, 2):
                await mouth.say()
                assert (await made.trace(count)).outcome == "answered"
            with anyio.fail_after(5):
                while not made.states:
                    await anyio.sleep(0.01)
    finally:
        free.set()
    assert made.states == [
        f"the sound of utterances is not kept: {tmp_path}/utterances hangs (look at the disk it is on)"
    ]


@pytest.mark.parametrize("text", ["", "...", "\U0001f44d"])
async def test_an_answer_without_words_is_nobodys_failure(tmp_path: Path, text: str) -> None:
    made = rig(tmp_path, dialog=DialogConfig(service="agent"))
    made.dialogs["agent"] = dialog(Reply(text=text, listen=True))
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "answered"
    assert not made.speech[""].spoken
    assert not made.states
    assert made.listened == 1


@pytest.mark.parametrize(
    ("unreachable", "said"), [("Nobody home.", "Nobody home."), ("", "Sorry, I did not understand that.")]
)
async def test_a_dialog_that_fails_is_apologised_for(tmp_path: Path, unreachable: str, said: str) -> None:
    made = rig(tmp_path, dialog=DialogConfig(service="agent", unreachable=unreachable))
    made.dialogs["agent"] = dialog(CallError(CallErrorKind.UNAVAILABLE, "no agent"))
    made.speech[""].text = "turn on the kitchen light"
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "answered"
    assert made.speech[""].spoken == [said]


async def test_two_services_of_one_node_are_two_providers(tmp_path: Path) -> None:
    both = (ProviderConfig(service="gpu", deadline_s=0.1), ProviderConfig(service="cpu"))
    made, hangs = rig(tmp_path, stt=both), FakeSpeech()
    hangs.hears = anyio.sleep_forever
    made.speech |= {"gpu": hangs, "cpu": FakeSpeech()}
    async with answering(made) as mouth:
        tried = []
        for count in (1, 2):
            await mouth.say()
            tried.append([(by, how) for name, by, how in stages(await made.trace(count)) if name == "transcribe"])
    assert tried == [[("local gpu", "timeout"), ("local cpu", "ok")], [("local cpu", "ok")]]
    assert len(made.states) == 1  # that the one works does not mend the other


async def test_a_fault_of_ours_does_not_leave_the_ring_red(tmp_path: Path) -> None:
    made = rig(tmp_path)
    made.speech[""].hears = lambda: 1 / 0
    async with answering(made) as mouth:
        await mouth.say()
        assert (await made.trace()).outcome == "failed"
    assert made.ring.shown[-2:] == ["error", "idle"]


@pytest.mark.parametrize("enabled", [True, False])
async def test_old_sound_is_deleted_though_nobody_speaks(tmp_path: Path, *, enabled: bool) -> None:
    (tmp_path / "utterances").mkdir()
    old, new = tmp_path / "utterances" / "old.wav", tmp_path / "utterances" / "new.wav"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    async with answering(rig(tmp_path, keep=KeepConfig(enabled=enabled))):
        with anyio.fail_after(5):
            while old.exists():
                await anyio.sleep(0.01)
    assert new.exists()
