"""The Wyoming server: the package's own client is served, every other kind is survived."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeVoice
from wyoming.wake import Detect

from sparkd import CallError, CallErrorKind, DeviceError, Sound, Speaker, Transcript
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from sparkd_plugins.wyoming_wire import info
from sparkd_plugins.wyoming_wire.frames import Frame
from sparkd_plugins.wyoming_wire.server import Detector, Limits, Server, listen

pytestmark = pytest.mark.anyio


class Counting:
    """Hears a word once it has had a second of sound."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.bytes = 0

    async def heard(self, pcm: bytes) -> str | None:
        before, self.bytes = self.bytes, self.bytes + len(pcm)
        return (self.words or ["okay_nabu"])[0] if before < 32_000 <= self.bytes else None


@dataclass
class Parrot:
    """Offers the length of what it hears, and speaks text as bytes."""

    errors: list[str] = field(default_factory=list)

    async def describe(self) -> Mapping[str, Any]:
        speakers = [Speaker(name="amy", language="en-us", engine="piper", rate_hz=22_050)]
        return {"asr": info.asr("w", "tiny.en", ["en"]), "tts": info.tts(speakers), "wake": info.wake("m", ["ok"])}

    async def transcribe(self, pcm: bytes, *, rate_hz: int, language: str) -> Transcript:
        if language == "xx":
            raise CallError(CallErrorKind.UNAVAILABLE, "overloaded", remedy="later")
        if language == "yy":
            raise ZeroDivisionError
        return Transcript(text=f"{len(pcm)} {rate_hz}", language=language)

    async def synthesize(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        if not text:
            raise DeviceError("nothing to say", remedy="say something")
        for word in (text, voice, language):
            yield Sound(pcm=word.encode("utf-16-le"), rate_hz=22_050)

    def detector(self, words: Sequence[str]) -> Detector:
        return Counting(words)

    def error(self, event: str, *, exc_info: BaseException | None = None, **_fields: object) -> None:
        self.errors.append(f"{event} {type(exc_info).__name__}")


@dataclass
class Door:
    server: Server
    parrot: Parrot
    port: int

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncTcpClient]:
        async with AsyncTcpClient("127.0.0.1", self.port) as client:
            yield client

    async def throw(self, data: bytes) -> bytes:
        """Send *data*, and return all that comes back until the server hangs up."""
        with anyio.fail_after(10):
            async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
                answer = b""
                try:
                    await stream.send(data)
                    await stream.send_eof()
                    async for piece in stream:
                        answer += piece
                except (anyio.BrokenResourceError, anyio.EndOfStream, OSError):
                    pass
                return answer


@asynccontextmanager
async def door(**limits: Any) -> AsyncIterator[Door]:
    parrot = Parrot()
    server = Server(parrot, Limits(**limits), parrot)
    listener, port = await listen("127.0.0.1", 0)
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, listener)
        yield Door(server, parrot, port)
        group.cancel_scope.cancel()
    await listener.aclose()


async def answered(client: AsyncTcpClient) -> Event:
    with anyio.fail_after(10):
        event = await client.read_event()
    assert event is not None
    return event


async def test_the_packages_client_learns_what_there_is() -> None:
    async with door() as at, at.client() as client:
        await client.write_event(Describe().event())
        told = Info.from_event(await answered(client))
        assert told.asr[0].models[0].languages == ["en"]
        assert (told.tts[0].name, told.tts[0].voices[0].name) == ("piper", "amy")
        assert told.wake[0].models[0].phrase == "ok"
        await client.write_event(Ping(text="x").event())
        assert (await answered(client)).type == "pong"


async def test_the_packages_client_is_heard_twice_on_one_connection() -> None:
    async with door() as at, at.client() as client:
        for length in (1000, 2000):
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(rate=22_050, width=2, channels=1).event())
            for _ in range(3):
                await client.write_event(AudioChunk(rate=22_050, width=2, channels=1, audio=bytes(length)).event())
            await client.write_event(AudioStop().event())
            event = await answered(client)
            assert event.data == {"text": f"{3 * length} 22050", "language": "en"}


async def test_the_packages_client_is_spoken_to() -> None:
    async with door() as at, at.client() as client:
        await client.write_event(Synthesize(text="hello", voice=SynthesizeVoice(name="amy")).event())
        events = [await answered(client) for _ in range(4)]
        assert [event.type for event in events] == ["audio-start", *["audio-chunk"] * 2, "audio-stop"]
        assert (events[1].payload or b"").decode("utf-16-le") == "hello"
        await client.write_event(Synthesize(text="").event())
        assert "nothing to say (say something)" in (await answered(client)).data["text"]


async def test_our_own_client_and_server_understand_each_other() -> None:
    async with door() as at:
        speech = WyomingSpeech("127.0.0.1", at.port, connect_s=2)
        assert (await speech.transcribe(bytes(64_000), rate_hz=16_000, language="en")).text == "64000 16000"
        assert [sound.rate_hz async for sound in speech.synthesize("hi", voice="amy")] == [22_050] * 2
        with pytest.raises(DeviceError, match="overloaded"):
            await speech.transcribe(bytes(64_000), rate_hz=16_000, language="xx")


async def test_a_wake_word_is_told_when_it_is_heard_or_that_it_was_not() -> None:
    async with door() as at, at.client() as client:
        for seconds, kind in ((2, "detection"), (0.5, "not-detected")):
            await client.write_event(Detect(names=["hey_jarvis"]).event())
            await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
            for _ in range(int(seconds * 20)):
                chunk = AudioChunk(rate=16_000, width=2, channels=1, audio=bytes(1600), timestamp=7)
                await client.write_event(chunk.event())
            await client.write_event(AudioStop().event())
            event = await answered(client)
            assert event.type == kind
            assert kind == "not-detected" or (event.data["name"], event.data["timestamp"]) == ("hey_jarvis", 7)


async def test_a_failure_of_ours_costs_one_client_only() -> None:
    async with door() as at:
        async with at.client() as client:
            await client.write_event(Transcribe(language="yy").event())
            await client.write_event(AudioStop().event())
            assert await client.read_event() is None
        assert at.parrot.errors == ["wyoming-client-failed ZeroDivisionError"]
        async with at.client() as client:
            await client.write_event(Describe().event())
            assert (await answered(client)).type == "info"


async def test_too_many_too_long_and_too_quiet_are_refused() -> None:
    async with door(connections=2, audio_s=1.0, text_chars=10, idle_s=0.3) as at:
        chunk = Frame("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, bytes(20_000)).encode()
        assert b"more than 1 s" in await at.throw(chunk * 2)
        assert b"characters, more than 10" in await at.throw(Frame("synthesize", {"text": "x" * 11}).encode())
        async with at.client() as one, at.client():
            await one.write_event(Ping().event())
            await answered(one)
            assert b"too many connections" in await at.throw(b"")
            with anyio.fail_after(5):
                assert await one.read_event() is None  # it was quiet for too long
        assert at.server.refused == 1


async def test_a_client_that_asks_and_never_reads_is_let_go() -> None:
    async with door(idle_s=0.3) as at:
        async with await anyio.connect_tcp("127.0.0.1", at.port) as stream:

            async def flood() -> None:
                while True:
                    await stream.send(Frame("describe").encode() * 100)

            with anyio.fail_after(20), pytest.raises(anyio.BrokenResourceError):
                await flood()
        with anyio.fail_after(5):
            while at.server.connections:
                await anyio.sleep(0.01)


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\n",
    b"\xff" * 200_000,
    b"[" * 60_000 + b"\n",
    b'{"type": "audio-chunk", "payload_length": 99999999999}\n',
    b'{"type": "audio-chunk", "data": {"width": 4}}\n',
    b'{"type": "audio-start", "data": {"rate": 1e400}}\n',
    b'{"type": "audio-start", "data": {"rate": true}}\n',
    b'{"type": "audio-start", "data": {"channels": "two"}}\n',
    b'{"type": "synthesize", "data": {"text": ["x"]}}\n',
    b'{"type": "synthesize", "data": {"text": "x", "voice": "amy"}}\n',
    b'{"type": "synthesize", "data": {"text": "x", "voice": {"name": 3}}}\n',
    b'{"type": "detect", "data": {"names": "x"}}\n',
    b'{"type": "transcribe", "data": {"language": {}}}\n',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_answered_by_an_error_and_the_end(garbage: bytes) -> None:
    async with door() as at:
        assert b'"nonsense"' in await at.throw(garbage) or len(garbage) > 100_000  # hung up on while still sending
        assert at.parrot.errors == []


async def test_mutilated_conversations_never_end_the_server() -> None:
    frames: list[tuple[str, dict[str, Any], bytes]] = [
        ("describe", {}, b""),
        ("detect", {"names": ["a"]}, b""),
        ("audio-start", {"rate": 16_000, "width": 2, "channels": 1}, b""),
        ("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, bytes(640)),
        ("transcribe", {"language": "en"}, b""),
        ("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, bytes(640)),
        ("audio-stop", {}, b""),
        ("synthesize", {"text": "hello", "voice": {"name": "amy"}}, b""),
    ]
    good = b"".join(Frame(kind, data, payload).encode() for kind, data, payload in frames)
    dice = random.Random(4)
    async with door() as at:
        for _ in range(300):
            bad = bytearray(good)
            for _ in range(dice.randint(1, 8)):
                place = dice.randrange(len(bad))
                match dice.randrange(3):
                    case 0:
                        bad[place] = dice.randrange(256)
                    case 1:
                        del bad[place : place + dice.randint(1, 40)]
                    case _:
                        bad[place:place] = dice.randbytes(dice.randint(1, 40))
            await at.throw(bytes(bad))
        assert at.parrot.errors == []
        assert b'"info"' in await at.throw(Frame("describe").encode())
        with anyio.fail_after(5):
            while at.server.connections:
                await anyio.sleep(0.01)
