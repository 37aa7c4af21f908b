"""Providers over real sockets: a Wyoming server that works, and ones that hang, refuse, die and talk nonsense."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from sparkd import DeviceError, Privacy, Sound, Transcript, Troubles
from sparkd.testing import free_port
from sparkd_plugins.respeaker_voice.answer_config import AnswerConfig, DialogConfig, ProviderConfig
from sparkd_plugins.respeaker_voice.happenings import Ended
from sparkd_plugins.respeaker_voice.providers import Providers, WyomingProvider, provider
from sparkd_plugins.respeaker_voice.recording import Recording
from sparkd_plugins.respeaker_voice.trace import Trace
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from sparkd_plugins.wyoming_wire import info
from sparkd_plugins.wyoming_wire.server import Detector, Limits, Server, serve_at
from tests.plugins.answered import Rig

pytestmark = pytest.mark.anyio
PCM = bytes(range(256)) * 100


class Offer:
    """A Wyoming server's engines: says how much it heard."""

    async def describe(self) -> Mapping[str, Any]:
        return {"asr": info.asr("test", "test", ["en"])}

    async def transcribe(self, pcm: bytes, *, rate_hz: int, language: str) -> Transcript:
        return Transcript(text=f"{len(pcm)} bytes at {rate_hz} in {language}")

    async def synthesize(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        for word in text.split():
            yield Sound(pcm=word.encode("utf-16-le"), rate_hz=22_050)

    def detector(self, words: Sequence[str]) -> Detector:
        raise DeviceError("none")


class Nothing:
    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        raise AssertionError((event, exc_info))


@asynccontextmanager
async def good() -> AsyncIterator[int]:
    server, port = Server(Offer(), Limits(), Nothing()), free_port()
    async with anyio.create_task_group() as group:
        await group.start(partial(serve_at, server, "127.0.0.1", port, tell=lambda problem: None))
        yield port
        group.cancel_scope.cancel()


Deed = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def bad(deed: Deed) -> AsyncIterator[int]:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await deed(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def hangs(stream: SocketStream) -> None:
    while True:
        await stream.receive()


async def dies(stream: SocketStream) -> None:
    await stream.receive(100)


async def nonsense(stream: SocketStream) -> None:
    await stream.receive(100)
    await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def lies(stream: SocketStream) -> None:
    await stream.receive(100)
    await stream.send(b'{"type":"transcript","data_length":99999999999}\n')


async def stops_in_the_middle(stream: SocketStream) -> None:
    await stream.receive(100)
    await stream.send(b'{"type":"audio-chunk","data":{"rate":16000,"width":2,"channels":1},"payload_length":4}\nabcd')
    await hangs(stream)


@asynccontextmanager
async def refuses(_deed: Deed) -> AsyncIterator[int]:
    yield free_port()


def wyoming(port: int, *, deadline_s: float = 0.5) -> tuple[ProviderConfig, WyomingProvider]:
    spec = ProviderConfig(kind="wyoming", host="127.0.0.1", port=port, deadline_s=deadline_s)
    return spec, WyomingProvider(WyomingSpeech("127.0.0.1", port, connect_s=1), "")


class Told:
    def __init__(self) -> None:
        self.states: list[str] = []

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(reason)

    def recovered(self) -> None:
        self.states.append("recovered")


def recording() -> Recording:
    made = Recording()
    made.add(PCM)
    made.end(Ended("silence", 0.0, 0.0, 0.8))
    return made


@pytest.mark.parametrize(
    ("server", "deed", "outcome", "why"),
    [
        (bad, hangs, "timeout", "no text within 0.5 s"),
        (refuses, hangs, "failed", "Connect call failed"),
        (bad, dies, "failed", "broke off|closed the connection"),
        (bad, nonsense, "failed", "nonsense"),
        (bad, lies, "failed", "nonsense"),
    ],
    ids=["hangs", "refuses", "dies", "nonsense", "lies"],
)
async def test_a_bad_server_is_passed_over(server: Any, deed: Deed, outcome: str, why: str) -> None:
    told, trace = Told(), Trace(0.0)
    async with server(deed) as first, good() as second:
        stt = Providers("stt", [wyoming(first), wyoming(second)], retry_s=30, troubles=Troubles(told))
        with anyio.fail_after(10):
            transcript = await stt.transcribe(recording(), trace, language="en")
        assert transcript is not None
        assert transcript.text == f"{len(PCM)} bytes at 16000 in en"
        assert [stage.outcome for stage in trace.stages] == [outcome, "ok"]
        assert trace.stages[0].by == f"wyoming 127.0.0.1:{first}"
        assert re.fullmatch(rf"stt: wyoming 127.0.0.1:{first}: .*({why}).*", told.states[0])


@pytest.mark.parametrize(("server", "deed"), [(bad, hangs), (refuses, hangs), (bad, dies), (bad, nonsense)])
async def test_another_voice_steps_in_before_the_first_sound(server: Any, deed: Deed) -> None:
    trace = Trace(0.0)
    async with server(deed) as first, good() as second:
        tts = Providers("tts", [wyoming(first), wyoming(second)], retry_s=30, troubles=Troubles(Told()))
        with anyio.fail_after(10):
            spoken = [sound async for sound in tts.speak("good morning", trace)]
    assert b"".join(sound.pcm for sound in spoken).decode("utf-16-le") == "goodmorning"
    assert [stage.outcome == "ok" for stage in trace.stages] == [False, True]


async def test_after_the_first_sound_no_other_voice_begins() -> None:
    heard: list[bytes] = []

    async def listen(tts: Providers) -> None:
        async for sound in tts.speak("good morning", Trace(0.0)):
            heard.append(sound.pcm)  # noqa: PERF401 - what comes before the failure counts

    async with bad(stops_in_the_middle) as first, good() as second:
        tts = Providers("tts", [wyoming(first), wyoming(second)], retry_s=30, troubles=Troubles(Told()))
        with anyio.fail_after(10), pytest.raises(DeviceError, match="in the middle of the answer: nothing for"):
            await listen(tts)
    assert heard == [b"abcd"]


async def test_one_that_failed_is_tried_last_and_again_after_a_while() -> None:
    clock = [0.0]
    order: list[str] = []

    class One:
        def __init__(self, name: str, *, broken: bool) -> None:
            self.name, self.broken = name, broken

        async def transcribe(self, audio: AsyncIterator[bytes], *, language: str) -> Transcript:
            order.append(self.name)
            if self.broken:
                raise DeviceError("broken")
            return Transcript(text="x")

        def synthesize(self, text: str) -> AsyncIterator[Sound]:
            raise NotImplementedError

    first, second = One("first", broken=True), One("second", broken=False)
    listed: Any = [(ProviderConfig(kind="node", node="first"), first), (ProviderConfig(), second)]
    told = Told()
    stt = Providers("stt", listed, retry_s=30, troubles=Troubles(told), now=lambda: clock[0])
    for at, broken in ((0.0, True), (10.0, True), (31.0, True), (62.0, False)):
        clock[0], first.broken = at, broken
        await stt.transcribe(recording(), Trace(0.0), language="en")
    assert order == ["first", "second", "second", "first", "second", "first"]
    assert told.states == ["stt: node first: broken", "recovered"]
    first.broken = second.broken = True
    assert await stt.transcribe(recording(), Trace(0.0), language="en") is None
    assert order[-2:] == ["first", "second"]


async def test_the_deadline_runs_from_the_end_of_the_utterance(tmp_path: Any) -> None:
    made = Recording()
    with made.limit(0.05) as scope:
        await anyio.sleep(0.2)
        made.end(Ended("silence", 0.0, 0.0, 0.8))
        await anyio.sleep(5)
    assert scope.cancelled_caught
    with made.limit(0.05) as scope:
        await anyio.sleep(5)
    assert scope.cancelled_caught


async def test_several_read_a_recording_each_from_its_beginning() -> None:
    made, read = Recording(), []

    async def reader() -> None:
        read.append(b"".join([piece async for piece in made.stream()]))

    async with anyio.create_task_group() as group:
        made.add(b"a")
        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        made.add(b"b")
        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        made.add(b"c")
        made.end(Ended("silence", 0.0, 0.0, 0.1))
    assert read == [b"abc", b"abc"]


@pytest.mark.parametrize("privacy", ["node", "local", "shared"])
async def test_what_nodes_are_given_is_of_the_class_that_config_says(tmp_path: Any, privacy: Any) -> None:
    config = AnswerConfig(privacy=privacy)
    rig = Rig(tmp_path, config)
    provider(rig.context, ProviderConfig(), config)
    assert [call["privacy"] for call in rig.calls] == [Privacy.parse(privacy)]


ELSEWHERE = ProviderConfig(kind="wyoming", host="10.8.0.14", port=10300)
AT_HOME = ProviderConfig(kind="wyoming", host="192.168.1.50", port=10300, same_site=True)
LOOPBACK = ProviderConfig(kind="wyoming", host="127.0.0.1", port=10300)
NODE = ProviderConfig(kind="node", node="voice-vm")


@pytest.mark.parametrize("job", ["stt", "tts"])
@pytest.mark.parametrize(
    ("privacy", "allowed", "refused"),
    [
        ("node", [ProviderConfig(), LOOPBACK], [NODE, AT_HOME, ELSEWHERE]),
        ("local", [ProviderConfig(), LOOPBACK, NODE, AT_HOME], [ELSEWHERE]),
        ("shared", [ProviderConfig(), LOOPBACK, NODE, AT_HOME, ELSEWHERE], []),
    ],
)
def test_a_config_that_would_send_speech_away_is_refused(
    job: str, privacy: str, allowed: list[ProviderConfig], refused: list[ProviderConfig]
) -> None:
    AnswerConfig(**{"privacy": privacy, job: tuple(allowed)})  # type: ignore[arg-type]
    for one in refused:
        with pytest.raises(ValueError, match=f"{job}: .*privacy = '"):
            AnswerConfig(**{"privacy": privacy, job: (ProviderConfig(), one)})  # type: ignore[arg-type]


def test_words_do_not_leave_this_machine_either() -> None:
    with pytest.raises(ValueError, match=r"dialog: .* privacy = 'node'"):
        AnswerConfig(privacy="node", dialog=DialogConfig(node="cloud", service="agent"))


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"kind": "node"}, "needs node"),
        ({"kind": "wyoming", "host": "10.0.0.1"}, "host and port"),
        ({"kind": "wyoming", "host": "10.0.0.1", "port": 70_000}, "host and port"),
        ({"deadline_s": 0.0}, "deadline_s"),
    ],
)
def test_a_provider_that_cannot_be_is_named(spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ProviderConfig(**spec)
