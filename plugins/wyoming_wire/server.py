"""A Wyoming server that no client can end: connections, sizes and silences are bounded, nonsense costs its sender.

What it offers stands behind `Offer`; this file knows nothing of engines. A client that sends what the protocol forbids
gets an `error` and is hung up on; one that asks for what cannot be done now gets an `error` and may ask again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import CallError, DeviceError, RemoteMessageError, Sound, Transcript

from .frames import MAX_PAYLOAD_BYTES, Frame, read_frame

SAMPLE_BYTES = 2
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
_TAKEN = "see what listens there (ss -ltnp) and whether the address is this machine's, or set another"


class Detector(Protocol):
    """Listens for wake words in one stream of sound."""

    async def heard(self, pcm: bytes) -> str | None:
        """Return the word that ends in this piece of 16 kHz sound, or None."""
        ...


class Offer(Protocol):
    """What a server offers. Each method may raise DeviceError or CallError; the client is told."""

    async def describe(self) -> Mapping[str, Any]:
        """Return the data of `info`."""
        ...

    async def transcribe(self, pcm: bytes, *, rate_hz: int, language: str) -> Transcript:
        """Return what is said in *pcm*."""
        ...

    def synthesize(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        """Speak *text*."""
        ...

    def detector(self, words: Sequence[str]) -> Detector:
        """Return a fresh detector for *words*, or for all if there are none."""
        ...


class Log(Protocol):
    """Where a failure of ours is told."""

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Say that a hand is needed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, and all of them, may take."""

    connections: int = 16
    audio_s: float = 60.0
    """The longest utterance."""
    text_chars: int = 2000
    idle_s: float = 60.0
    """A client that neither sends nor reads for so long is hung up on."""


class Server:
    """Serves *offer* to every client within *limits*."""

    def __init__(self, offer: Offer, limits: Limits, log: Log) -> None:
        """Offer *offer*; failures of our own go to *log*."""
        self._offer = offer
        self._limits = limits
        self._log = log
        self.connections = 0
        self.refused = 0

    async def serve(self, listener: SocketListener) -> None:
        """Answer every client of *listener* until cancelled."""
        await listener.serve(self._meet)

    async def _meet(self, stream: SocketStream) -> None:
        self.connections += 1
        try:
            async with stream:
                client = _Client(stream, self._offer, self._limits)
                if self.connections > self._limits.connections:
                    self.refused += 1
                    await client.tell("too many connections", "overloaded")
                else:
                    await client.run()
        except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # it went, or does not read: nothing is lost but its own answer
        except Exception as error:  # noqa: BLE001 - a failure of ours over one client must not end the others
            self._log.error("wyoming-client-failed", exc_info=error)
        finally:
            self.connections -= 1


class _Client:
    def __init__(self, stream: SocketStream, offer: Offer, limits: Limits) -> None:
        self._stream = stream
        self._offer = offer
        self._limits = limits
        self._language = ""
        self._rate_hz = 16_000
        self._sound = bytearray()
        self._detector: Detector | None = None
        self._words: list[str] = []
        self._found = False

    async def run(self) -> None:
        reader = BufferedByteReceiveStream(self._stream)
        try:
            while True:
                with anyio.fail_after(self._limits.idle_s):
                    frame = await read_frame(reader)
                if frame is None:
                    return
                await self._answer(frame)
        except RemoteMessageError as error:
            await self.tell(str(error), "nonsense")

    async def tell(self, text: str, code: str) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._send("error", {"text": text, "code": code})

    async def _answer(self, frame: Frame) -> None:
        deed = _DEEDS.get(frame.type)
        if deed is None:
            return  # as the protocol wants it: what one does not know is for somebody newer
        try:
            await deed(self, frame)
        except DeviceError as error:
            await self.tell(f"{error}" + (f" ({error.remedy})" if error.remedy else ""), "unavailable")
        except CallError as error:
            await self.tell(str(error), error.kind)

    async def _send(self, kind: str, data: Mapping[str, Any], payload: bytes = b"") -> None:
        with anyio.fail_after(self._limits.idle_s):
            await self._stream.send(Frame(kind, data, payload).encode())

    async def _describe(self, _frame: Frame) -> None:
        await self._send("info", await self._offer.describe())

    async def _ping(self, frame: Frame) -> None:
        await self._send("pong", {"text": frame.text("text")[:1000]})

    async def _transcribe(self, frame: Frame) -> None:
        self._language = frame.text("language")[:35]  # the longest that BCP 47 asks receivers to take
        self._detector = None
        self._sound.clear()

    async def _detect(self, frame: Frame) -> None:
        names = frame.data.get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RemoteMessageError("detect: names: a list of texts expected")
        self._words = names
        self._detector = self._offer.detector(names)
        self._found = False

    async def _start(self, frame: Frame) -> None:
        self._sound.clear()
        self._found = False
        self._format(frame)
        if self._detector is not None:
            self._detector = self._offer.detector(self._words)

    async def _chunk(self, frame: Frame) -> None:
        self._format(frame)
        if self._detector is not None:
            await self._listen(self._detector, frame)
            return
        most = int(self._limits.audio_s * self._rate_hz) * SAMPLE_BYTES
        if len(self._sound) + len(frame.payload) > most:
            raise RemoteMessageError(f"audio-chunk: an utterance of more than {self._limits.audio_s:g} s")
        self._sound += frame.payload

    async def _listen(self, detector: Detector, frame: Frame) -> None:
        if self._rate_hz != 16_000:  # noqa: PLR2004 - what wake words are trained on
            raise RemoteMessageError("audio-chunk: wake words are heard at 16000 Hz")
        word = await detector.heard(frame.payload)
        if word is not None:
            self._found = True
            await self._send("detection", {"name": word, "timestamp": frame.data.get("timestamp")})

    async def _stop(self, _frame: Frame) -> None:
        if self._detector is not None:
            if not self._found:
                await self._send("not-detected", {})
            return
        pcm = bytes(self._sound[: len(self._sound) // SAMPLE_BYTES * SAMPLE_BYTES])
        self._sound.clear()
        heard = await self._offer.transcribe(pcm, rate_hz=self._rate_hz, language=self._language)
        await self._send("transcript", {"text": heard.text, "language": heard.language or None})

    async def _synthesize(self, frame: Frame) -> None:
        text = frame.text("text")
        if len(text) > self._limits.text_chars:
            raise RemoteMessageError(f"synthesize: {len(text)} characters, more than {self._limits.text_chars}")
        wanted = frame.data.get("voice") or {}
        if not isinstance(wanted, dict):
            raise RemoteMessageError("synthesize: voice: an object expected")
        voice = Frame("synthesize", wanted)
        rate_hz = 0
        async for sound in self._offer.synthesize(text, voice=voice.text("name"), language=voice.text("language")):
            form = {"rate": sound.rate_hz, "width": SAMPLE_BYTES, "channels": 1}
            if not rate_hz:
                rate_hz = sound.rate_hz
                await self._send("audio-start", form)
            for begin in range(0, len(sound.pcm), MAX_PAYLOAD_BYTES // 16):
                await self._send("audio-chunk", form, sound.pcm[begin : begin + MAX_PAYLOAD_BYTES // 16])
        if not rate_hz:
            await self._send("audio-start", {"rate": 16_000, "width": SAMPLE_BYTES, "channels": 1})
        await self._send("audio-stop", {})

    def _format(self, frame: Frame) -> None:
        if frame.number("width", default=2, lowest=1, highest=8) != SAMPLE_BYTES:
            raise RemoteMessageError(f"{frame.type}: samples of 16 bits expected")
        if frame.number("channels", default=1, lowest=1, highest=64) != 1:
            raise RemoteMessageError(f"{frame.type}: one channel expected")
        self._rate_hz = frame.number("rate", default=self._rate_hz, lowest=8_000, highest=48_000)


_DEEDS = {
    "describe": _Client._describe,  # noqa: SLF001 - the table of this file's own class
    "ping": _Client._ping,  # noqa: SLF001
    "transcribe": _Client._transcribe,  # noqa: SLF001
    "detect": _Client._detect,  # noqa: SLF001
    "audio-start": _Client._start,  # noqa: SLF001
    "audio-chunk": _Client._chunk,  # noqa: SLF001
    "audio-stop": _Client._stop,  # noqa: SLF001
    "synthesize": _Client._synthesize,  # noqa: SLF001
}


async def serve_at(
    server: Server,
    host: str,
    port: int,
    *,
    tell: Callable[[DeviceError | None], None],
    task_status: TaskStatus[int] = TASK_STATUS_IGNORED,
) -> None:
    """Serve at *host* and *port* until cancelled; an address that cannot be had is told, and tried again.

    Started after the first try, with the port, or 0 if it could not be had. *tell* is given None once it is.
    """
    started, delay_s = False, RETRY_MIN_S
    while True:
        have = 0
        try:
            listener, have = await listen(host, port)
        except OSError as error:
            tell(DeviceError(f"the Wyoming server cannot listen at {host}:{port}: {error}", remedy=_TAKEN))
        else:
            tell(None)
        if not started:
            task_status.started(have)
            started = True
        if have:
            async with listener:
                await server.serve(listener)
        await anyio.sleep(delay_s)
        delay_s = min(delay_s * 2, RETRY_MAX_S)


async def listen(host: str, port: int) -> tuple[SocketListener, int]:
    """Listen on *host* and *port*; return the listener and its port. Raises OSError."""
    multi = await anyio.create_tcp_listener(local_host=host, local_port=port)
    listener, *others = multi.listeners
    for other in others:
        await other.aclose()
    if not isinstance(listener, SocketListener):
        raise OSError(f"{host}:{port} gave no socket")
    return listener, int(listener.extra(SocketAttribute.local_port))  # noqa: S610 - no Django far and wide
