"""A client of Wyoming servers: speech to text and back on another machine.

One connection per request, so that nothing of a request that failed is left for the next. What the server does wrong
is a DeviceError that says what; how long it may take is the caller's to say (`anyio.fail_after`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import DeviceError, RemoteMessageError, Sound, Transcript
from sparkd_plugins.wyoming_wire.frames import Frame, read_frame

if TYPE_CHECKING:  # an extra: imported when it is first used
    from wyoming.event import Eventable

MAX_FRAMES = 10_000
"""So many frames a server may send before the one that is awaited."""
MAX_SOUND_BYTES = 64 << 20
"""More than ten minutes at 48 kHz: no answer is that long."""
CHUNK_BYTES = 4096
"""An eighth of a second at 16 kHz."""


@dataclass(slots=True)
class _Outcome:
    frame: Frame | None = None
    problem: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Connection:
    stream: ByteStream
    reader: BufferedByteReceiveStream
    peer: str
    count: list[int] = field(default_factory=lambda: [0])

    async def send(self, message: Eventable) -> None:
        event = message.event()
        await self.stream.send(Frame(event.type, event.data, event.payload or b"").encode())

    async def next(self, *wanted: str) -> Frame:
        """Return the next frame of a type that is *wanted*. Raises DeviceError if it does not come."""
        while True:
            frame = await read_frame(self.reader)
            if frame is None:
                raise DeviceError(f"{self.peer}: closed the connection before it answered")
            self.count[0] += 1
            if frame.type == "error":
                raise DeviceError(f"{self.peer}: {str(frame.data.get('text', 'an error without a text'))[:200]}")
            if frame.type in wanted:
                return frame
            if self.count[0] > MAX_FRAMES:
                raise DeviceError(f"{self.peer}: {MAX_FRAMES} frames and no {wanted[0]!r} among them")


class WyomingSpeech:
    """The speech of one Wyoming server. Safe to use from several tasks at once."""

    def __init__(self, host: str, port: int, *, connect_s: float) -> None:
        """Speak to *host* at *port*, giving up on connecting after *connect_s* seconds."""
        self._host = host
        self._port = port
        self._connect_s = connect_s
        self._peer = f"wyoming {host}:{port}"

    async def transcribe(self, pcm: AsyncIterator[bytes] | bytes, *, rate_hz: int, language: str) -> Transcript:
        """Return what is said in *pcm*, sent as it comes. Raises DeviceError; what *pcm* raises passes through."""
        begin = time.monotonic()
        sent_bytes = [0]
        async with self._connection() as connection, anyio.create_task_group() as group:
            outcome = _Outcome()
            group.start_soon(_hear, connection, outcome, group.cancel_scope)
            try:
                await _send_utterance(connection, pcm, rate_hz=rate_hz, language=language, sent_bytes=sent_bytes)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # whoever hears says why
            except Exception as error:  # noqa: BLE001 - of the caller's sound: it is his, and not a group of one
                outcome.problem = error
                group.cancel_scope.cancel()
        if outcome.frame is None:
            raise outcome.problem or DeviceError(f"{self._peer}: no answer")
        if "text" not in outcome.frame.data:
            raise DeviceError(f"{self._peer}: sent nonsense: a transcript without a text")
        with _named(self._peer):
            text, heard = outcome.frame.text("text"), outcome.frame.text("language")
        return Transcript(
            text=text.strip(),
            language=heard or language,
            engine=self._peer,
            audio_s=round(sent_bytes[0] / 2 / rate_hz, 3),
            took_s=round(time.monotonic() - begin, 3),
        )

    async def synthesize(self, text: str, *, voice: str) -> AsyncIterator[Sound]:
        """Speak *text*: yields the sound as it comes. Raises DeviceError."""
        tts, _, _ = _messages()
        async with self._connection() as connection:
            await connection.send(tts.Synthesize(text=text, voice=tts.SynthesizeVoice(name=voice) if voice else None))
            async with aclosing(self._sounds(connection)) as sounds:
                async for sound in sounds:
                    yield sound

    async def describe(self) -> Mapping[str, Any]:
        """Return what the server says of itself: the data of its `info`. Raises DeviceError."""
        from wyoming.info import Describe  # noqa: PLC0415 - an extra, checked for by the connection

        async with self._connection() as connection:
            await connection.send(Describe())
            return (await connection.next("info")).data

    async def _sounds(self, connection: _Connection) -> AsyncGenerator[Sound, None]:
        total = 0
        while True:
            frame = await connection.next("audio-chunk", "audio-stop")
            if frame.type == "audio-stop":
                return
            if frame.number("width", default=2, lowest=1, highest=8) != 2:  # noqa: PLR2004 - bytes of a sample
                raise DeviceError(f"{self._peer}: speaks with samples of other than 16 bits")
            if frame.number("channels", default=1, lowest=1, highest=64) != 1:
                raise DeviceError(f"{self._peer}: speaks on more than one channel")
            total += len(frame.payload)
            if total > MAX_SOUND_BYTES:
                raise DeviceError(f"{self._peer}: does not end: {total} bytes of sound")
            rate_hz = frame.number("rate", default=22_050, lowest=4_000, highest=192_000)
            yield Sound(pcm=frame.payload[: len(frame.payload) // 2 * 2], rate_hz=rate_hz)

    def _connection(self) -> AbstractAsyncContextManager[_Connection]:
        _messages()
        return _connected(self._host, self._port, connect_s=self._connect_s)


@asynccontextmanager
async def _connected(host: str, port: int, *, connect_s: float) -> AsyncIterator[_Connection]:
    peer = f"wyoming {host}:{port}"
    try:
        with anyio.fail_after(connect_s):
            stream = await anyio.connect_tcp(host, port)
    except TimeoutError:
        raise DeviceError(f"{peer}: no connection within {connect_s} s", remedy=_REMEDY) from None
    except OSError as error:
        raise DeviceError(f"{peer}: {error.strerror or error.__cause__ or error}", remedy=_REMEDY) from error
    with _named(peer):
        async with stream:
            yield _Connection(stream, BufferedByteReceiveStream(stream), peer)


class _named:  # noqa: N801 - reads as the statement it is
    """Say who it was in what the protocol's code and the socket raise."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _where: object) -> None:
        if isinstance(error, RemoteMessageError):
            raise DeviceError(f"{self._peer}: sent nonsense: {error}") from error
        if isinstance(error, (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)):
            raise DeviceError(f"{self._peer}: broke off the connection") from error


async def _hear(connection: _Connection, outcome: _Outcome, scope: anyio.CancelScope) -> None:
    """Wait for the transcript, which may come before all is sent; then there is nothing more to send."""
    try:
        with _named(connection.peer):
            outcome.frame = await connection.next("transcript")
    except DeviceError as error:
        outcome.problem = error
    scope.cancel()


async def _send_utterance(
    connection: _Connection,
    pcm: AsyncIterator[bytes] | bytes,
    *,
    rate_hz: int,
    language: str,
    sent_bytes: list[int],
) -> None:
    _, asr, audio = _messages()
    await connection.send(asr.Transcribe(language=language or None))
    await connection.send(audio.AudioStart(rate=rate_hz, width=2, channels=1))
    async for piece in _pieces(pcm) if isinstance(pcm, bytes) else pcm:
        for begin in range(0, len(piece), CHUNK_BYTES):
            chunk = piece[begin : begin + CHUNK_BYTES]
            await connection.send(audio.AudioChunk(rate=rate_hz, width=2, channels=1, audio=chunk))
            sent_bytes[0] += len(chunk)
    await connection.send(audio.AudioStop())


async def _pieces(pcm: bytes) -> AsyncIterator[bytes]:
    yield pcm


def _messages() -> tuple[Any, Any, Any]:
    """Return the modules of the messages: tts, asr, audio. Raises DeviceError if the package is not there."""
    try:
        from wyoming import asr, audio, tts  # noqa: PLC0415 - an extra; probing the plugin must not need it
    except ImportError as error:
        raise DeviceError(f"Wyoming servers need a package: {error}", remedy="pip install 'sparkd[voice]'") from error
    return tts, asr, audio


_REMEDY = "look whether the server runs and listens there, and whether a firewall stands between"
