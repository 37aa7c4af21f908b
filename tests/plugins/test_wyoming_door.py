"""The Wyoming door: closed by default, and when open found by zeroconf and used by the package's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import anyio
import pytest
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info
from wyoming.wake import Detect
from zeroconf import ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from sparkd import CallError, CallErrorKind, DeviceError, Sound, Speaker, Speech, Transcript, Troubles
from sparkd.testing import free_port
from sparkd_plugins.respeaker_voice import wyoming_door
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from sparkd_plugins.respeaker_voice.wyoming_door import (
    SERVICE_TYPE,
    DoorConfig,
    Parts,
    _own_addresses,
    announced,
    run_door,
)
from tests.plugins.test_wyoming_server import Counting

pytestmark = pytest.mark.anyio


@dataclass
class Stub:
    """Answers as the stand-in of a call does: a stream is awaited first."""

    gone: bool = False
    troubles: list[str] = field(default_factory=list)

    async def transcribe(self, *, audio: AsyncIterator[bytes], rate_hz: int, language: str) -> Transcript:
        return Transcript(text=f"{sum([len(piece) async for piece in audio])} {rate_hz} {language}")

    async def synthesize(self, *, text: str, voice: str, language: str) -> AsyncIterator[Sound]:
        yield Sound(pcm=f"{text} {voice}{language}".encode("utf-16-le"), rate_hz=16_000)

    async def voices(self) -> list[Speaker]:
        if self.gone:
            raise CallError(CallErrorKind.UNAVAILABLE, "nobody serves speech")
        return [Speaker(name="amy", language="en", engine="piper", rate_hz=16_000)]

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.troubles.append(reason)

    def recovered(self) -> None:
        self.troubles.append("recovered")

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        raise AssertionError((event, exc_info, fields))


@asynccontextmanager
async def door(stub: Stub, *, announce: bool = False) -> AsyncIterator[int]:
    config = DoorConfig(enabled=True, port=free_port(), announce=announce)
    parts = Parts(speech=cast("Speech", stub), words=["okay_nabu", "alexa"], detector=Counting)
    async with anyio.create_task_group() as group:
        run = partial(run_door, config, parts, node="prime core 1", log=stub, troubles=Troubles(stub))
        yield cast("int", await group.start(run))
        group.cancel_scope.cancel()


async def test_the_door_is_closed_unless_config_opens_it() -> None:
    async with anyio.create_task_group() as group:
        stub = Stub()
        closed = partial(run_door, DoorConfig(), Parts(), node="n", log=stub, troubles=Troubles(stub))
        assert await group.start(closed) == 0


async def test_speech_behind_the_door_is_used_through_it() -> None:
    async with door(Stub()) as port:
        speech = WyomingSpeech("127.0.0.1", port, connect_s=2)
        assert (await speech.transcribe(bytes(100_000), rate_hz=16_000, language="en")).text == "100000 16000 en"
        (sound,) = [sound async for sound in speech.synthesize("hello", voice="amy")]
        assert sound.pcm.decode("utf-16-le") == "hello amy"


async def test_wake_words_are_heard_and_unknown_ones_refused() -> None:
    async with door(Stub()) as port, AsyncTcpClient("127.0.0.1", port) as client:
        with anyio.fail_after(10):
            await client.write_event(Detect(names=["nobody"]).event())
            event = await client.read_event()
            assert event is not None
            assert "unknown wake word 'nobody'; known: okay_nabu, alexa" in event.data["text"]
            await client.write_event(Detect(names=["alexa"]).event())
            await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
            for _ in range(40):
                await client.write_event(AudioChunk(rate=16_000, width=2, channels=1, audio=bytes(1600)).event())
            await client.write_event(AudioStop().event())
            event = await client.read_event()
            assert event is not None
            assert (event.type, event.data["name"]) == ("detection", "alexa")


async def test_the_door_describes_what_there_is_now() -> None:
    stub = Stub()
    async with door(stub) as port:
        for gone in (False, True):
            stub.gone = gone
            async with AsyncTcpClient("127.0.0.1", port) as client:
                await client.write_event(Describe().event())
                event = await client.read_event()
                assert event is not None
                told = Info.from_event(event)
            assert [model.name for model in told.wake[0].models] == ["okay_nabu", "alexa"]
            assert [len(told.asr), len(told.tts)] == ([0, 0] if gone else [1, 1])


async def test_the_door_is_found_by_zeroconf_and_gone_when_it_closes() -> None:
    found: list[tuple[str, ServiceStateChange]] = []
    changed = [anyio.Event()]

    def change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        assert zeroconf
        assert service_type == SERVICE_TYPE
        found.append((name, state_change))
        changed[0].set()

    watcher = AsyncZeroconf(interfaces=["127.0.0.1"])
    browser = AsyncServiceBrowser(watcher.zeroconf, SERVICE_TYPE, handlers=[change])
    name = f"prime-core-1.{SERVICE_TYPE}"
    try:
        async with door(Stub(), announce=True) as port:
            with anyio.fail_after(10):
                while (name, ServiceStateChange.Added) not in found:
                    await changed[0].wait()
                    changed[0] = anyio.Event()
            service = AsyncServiceInfo(SERVICE_TYPE, name)
            assert await service.async_request(watcher.zeroconf, 3000)
            assert (service.parsed_addresses(), service.port) == (["127.0.0.1"], port)
        with anyio.fail_after(10):
            while (name, ServiceStateChange.Removed) not in found:
                await changed[0].wait()
                changed[0] = anyio.Event()
    finally:
        await browser.async_cancel()
        await watcher.async_close()


async def test_what_cannot_be_announced_is_told_with_a_remedy() -> None:
    with pytest.raises(DeviceError, match=r"cannot be announced at 192\.0\.2\.1") as caught:  # an address of nobody's
        async with announced("n", "192.0.2.1", 1):
            pass
    assert "announce = false" in caught.value.remedy


async def test_what_could_not_be_announced_is_announced_once_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, announced_now, stub = [0], anyio.Event(), Stub()

    @asynccontextmanager
    async def at_the_third_try(node: str, host: str, port: int) -> AsyncIterator[None]:
        tries[0] += 1
        if tries[0] < 3:
            raise DeviceError("the network is unreachable")
        async with announced(node, host, port):
            announced_now.set()
            yield

    monkeypatch.setattr(wyoming_door, "announced", at_the_third_try)
    monkeypatch.setattr(wyoming_door, "ANNOUNCE_AGAIN_MIN_S", 0.01)
    async with door(stub, announce=True):
        with anyio.fail_after(10):
            await announced_now.wait()
            while "recovered" not in stub.troubles:
                await anyio.sleep(0.01)
    assert stub.troubles == ["the network is unreachable", "recovered"]


async def test_an_announcement_that_works_does_not_hide_an_address_that_cannot_be_had() -> None:
    stub, taken = Stub(), await anyio.create_tcp_listener(local_host="127.0.0.1")
    config, held = DoorConfig(enabled=True, port=taken.extra(anyio.abc.SocketAttribute.local_port)), Troubles(stub)
    held.say("announcement", "the network is unreachable", "")
    async with taken, anyio.create_task_group() as group:
        await group.start(partial(run_door, config, Parts(), node="n", log=stub, troubles=held))
        with anyio.fail_after(10):
            while "announcement" in held.known:
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert "cannot listen" in held.known["wyoming"]


async def test_a_door_whose_address_cannot_be_had_is_told() -> None:
    stub = Stub()
    taken = await anyio.create_tcp_listener(local_host="127.0.0.1")
    config = DoorConfig(enabled=True, port=taken.extra(anyio.abc.SocketAttribute.local_port), announce=False)
    async with taken, anyio.create_task_group() as group:
        assert await group.start(partial(run_door, config, Parts(), node="n", log=stub, troubles=Troubles(stub))) == 0
        group.cancel_scope.cancel()
    assert "cannot listen" in stub.troubles[0]


def test_a_door_open_everywhere_is_announced_with_addresses_others_can_reach() -> None:
    assert not [address for address in _own_addresses() if address.startswith("127.")]


def test_bad_config_is_refused() -> None:
    bad: list[dict[str, Any]] = [{"host": "everywhere"}, {"port": 0}, {"connections": 0}]
    for keys in bad:
        with pytest.raises(ValueError, match=next(iter(keys))):
            DoorConfig(**keys)
