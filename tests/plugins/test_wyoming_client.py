"""The Wyoming client against the package's own server, and against servers that do everything wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from wyoming.asr import Transcribe
from wyoming.asr import Transcript as WyomingTranscript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.server import AsyncEventHandler, AsyncTcpServer
from wyoming.tts import Synthesize

from sparkd import DeviceError, Sound, Transcript
from sparkd.testing import free_port
from sparkd_plugins.respeaker_voice import wyoming_client
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech

pytestmark = pytest.mark.anyio

BY = Attribution(name="test", url="")
MODEL = AsrModel(name="m", attribution=BY, installed=True, description=None, version=None, languages=["en"])
INFO = Info(asr=[AsrProgram(name="p", attribution=BY, installed=True, description=None, version="1", models=[MODEL])])


class Handler(AsyncEventHandler):
    """Answers with what it was sent: the length of the sound, the text as sound, its bytes as samples."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self.language: str | None = None
        self.sound = b""
        self.rate = 0

    async def handle_event(self, event: Event) -> bool:
        if Describe.is_type(event.type):
            await self.write_event(INFO.event())
        elif Transcribe.is_type(event.type):
            self.language = Transcribe.from_event(event).language
        elif AudioStart.is_type(event.type):
            self.rate = AudioStart.from_event(event).rate
        elif AudioChunk.is_type(event.type):
            self.sound += AudioChunk.from_event(event).audio
        elif AudioStop.is_type(event.type):
            text = f" {len(self.sound)} bytes at {self.rate} in {self.language} "
            await self.write_event(WyomingTranscript(text=text).event())
        elif Synthesize.is_type(event.type):
            await self.speak(Synthesize.from_event(event))
        return True

    async def speak(self, asked: Synthesize) -> None:
        if asked.text == "refuse":
            await self.write_event(Error(text="no such voice", code="voice").event())
            return
        await self.write_event(AudioStart(rate=22_050, width=2, channels=1).event())
        name = asked.voice.name if asked.voice else ""
        for word in (asked.text, name or ""):
            pcm = word.encode("utf-16-le")
            await self.write_event(AudioChunk(rate=22_050, width=2, channels=1, audio=pcm).event())
        await self.write_event(AudioStop().event())


@asynccontextmanager
async def reference_server() -> AsyncIterator[WyomingSpeech]:
    port = free_port()
    server = AsyncTcpServer("127.0.0.1", port)
    await server.start(Handler)
    try:
        yield WyomingSpeech("127.0.0.1", port, connect_s=2)
    finally:
        await server.stop()


@asynccontextmanager
async def bad_server(deed: Callable[[anyio.abc.SocketStream], Awaitable[None]]) -> AsyncIterator[WyomingSpeech]:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await deed(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield WyomingSpeech("127.0.0.1", port, connect_s=2)
        group.cancel_scope.cancel()


async def heard(speech: WyomingSpeech, pcm: AsyncIterator[bytes] | bytes = bytes(32_000)) -> Transcript:
    with anyio.fail_after(10):
        return await speech.transcribe(pcm, rate_hz=16_000, language="en")


async def spoken(speech: WyomingSpeech, text: str = "hello", voice: str = "") -> list[Sound]:
    with anyio.fail_after(20):
        return [sound async for sound in speech.synthesize(text, voice=voice)]


async def test_a_real_server_transcribes_what_is_sent_in_pieces() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(6400)

    async with reference_server() as speech:
        answer = await heard(speech, pieces())
        assert answer.text == "64000 bytes at 16000 in en"
        assert (answer.language, answer.audio_s) == ("en", 2.0)
        assert answer.engine.startswith("wyoming 127.0.0.1:")
        assert (await heard(speech, bytes(100_000))).text.startswith("100000 bytes")


async def test_a_real_server_speaks_and_describes_itself() -> None:
    async with reference_server() as speech:
        sounds = await spoken(speech, "hello", "amy")
        assert [sound.pcm.decode("utf-16-le") for sound in sounds] == ["hello", "amy"]
        assert {sound.rate_hz for sound in sounds} == {22_050}
        assert (await speech.describe())["asr"][0]["models"][0]["languages"] == ["en"]
        with pytest.raises(DeviceError, match="no such voice"):
            await spoken(speech, "refuse")


async def test_what_the_microphone_raises_comes_out_as_it_is() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(640)
        raise DeviceError("the microphone is gone")

    async with reference_server() as speech:
        with pytest.raises(DeviceError, match="the microphone is gone"):
            await heard(speech, broken())


async def test_a_server_that_is_not_there_is_said_with_a_remedy() -> None:
    with pytest.raises(DeviceError, match=r"refused|failed") as caught:
        await heard(WyomingSpeech("127.0.0.1", free_port(), connect_s=2))
    assert "runs and listens" in caught.value.remedy


async def test_a_server_that_hangs_is_left_at_the_callers_deadline() -> None:
    async with bad_server(lambda _stream: anyio.sleep_forever()) as speech:
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await speech.transcribe(bytes(32_000), rate_hz=16_000, language="")
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await speech.describe()


async def test_a_server_that_dies_in_the_middle_of_an_utterance_is_noticed_at_once() -> None:
    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        await stream.receive(100)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(640)
            await anyio.sleep(0.01)

    async with bad_server(hang_up) as speech:
        with pytest.raises(DeviceError, match=r"closed|broke off"):
            await heard(speech, endless())
        with pytest.raises(DeviceError, match=r"closed|broke off"):
            await spoken(speech)


async def test_an_answer_before_the_end_stops_the_sending() -> None:
    async def impatient(stream: anyio.abc.SocketStream) -> None:
        await stream.receive(100)
        await stream.send(b'{"type": "transcript", "data": {"text": "stop"}}\n')
        async for _ in stream:
            pass

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(640)
            await anyio.sleep(0.01)

    async with bad_server(impatient) as speech:
        assert (await heard(speech, endless())).text == "stop"


NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x00\xff" * 500 + b"\n",
    b"[]\n",
    b"{}\n",
    b'{"type": 3}\n',
    b'{"type": "transcript"}\n',
    b'{"type": "transcript", "data": []}\n',
    b'{"type": "transcript", "data": 3}\n',
    b'{"type": "transcript", "data": {"text": 3}}\n',
    b'{"type": "transcript", "data_length": 9000000000}\n',
    b'{"type": "transcript", "data_length": -1}\n',
    b'{"type": "transcript", "data_length": 4}\nabcd',
    b'{"type": "transcript", "payload_length": "x"}\n',
    b'{"type": "transcript", "payload_length": 50}\nshort',
    b'{"type": "transc',
    b"[" * 60_000 + b"\n",
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
async def test_nonsense_is_an_error_that_names_the_server(nonsense: bytes) -> None:
    async def babble(stream: anyio.abc.SocketStream) -> None:
        await stream.receive(100)
        await stream.send(nonsense)

    async with bad_server(babble) as speech:
        with pytest.raises(DeviceError, match=r"wyoming 127.0.0.1:\d+: (sent nonsense|broke off)"):
            await heard(speech, b"")


async def test_sound_that_is_no_sound_is_refused() -> None:
    async def babble(stream: anyio.abc.SocketStream) -> None:
        await stream.receive(100)
        await stream.send(b'{"type": "audio-chunk", "data": {"width": 4, "rate": 16000}, "payload_length": 4}\nabcd')

    async with bad_server(babble) as speech:
        with pytest.raises(DeviceError, match="16 bits"):
            await spoken(speech)


async def test_endless_data_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless_line(stream: anyio.abc.SocketStream) -> None:
        while True:
            await stream.send(b"x" * 65_536)

    async def endless_frames(stream: anyio.abc.SocketStream) -> None:
        while True:
            await stream.send(b'{"type": "pong"}\n' * 100)

    async def endless_sound(stream: anyio.abc.SocketStream) -> None:
        while True:
            await stream.send(b'{"type": "audio-chunk", "payload_length": 1000000}\n' + bytes(1_000_000))

    monkeypatch.setattr(wyoming_client, "MAX_SOUND_BYTES", 5_000_000)
    async with bad_server(endless_line) as speech:
        with pytest.raises(DeviceError, match="no line within"):
            await heard(speech)
    async with bad_server(endless_frames) as speech:
        with pytest.raises(DeviceError, match="frames and no"):
            await heard(speech)
    async with bad_server(endless_sound) as speech:
        with pytest.raises(DeviceError, match="does not end"):
            await spoken(speech)
