"""The ears at a pipe that comes and goes: what is told, in which order, and that they always hear again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream
from numpy.typing import NDArray

from sparkd import DeviceError, Troubles
from sparkd_plugins.respeaker_voice.direction import Compass
from sparkd_plugins.respeaker_voice.ears import Ears, Told
from sparkd_plugins.respeaker_voice.happenings import Ended, Voice, Woken
from sparkd_plugins.respeaker_voice.listen_config import ListenConfig
from sparkd_plugins.respeaker_voice.microphone import MicrophoneConfig
from tests.plugins.recorded import hush, recorded, said

pytestmark = pytest.mark.anyio


class States:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.changed = anyio.Event()

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self._say(reason)

    def recovered(self) -> None:
        self._say("recovered")

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, text: str) -> None:
        with anyio.fail_after(10):
            while not any(text in one for one in self.said):
                await self.changed.wait()


@asynccontextmanager
async def listening(
    path: Path, *, source: Any = "pipe", channels: int = 1, **listen: Any
) -> AsyncIterator[tuple[Ears, MemoryObjectReceiveStream[Told], States]]:
    states = States()
    config = MicrophoneConfig(source=source, path=path, channels=channels, paced=False)
    ears = Ears(config, ListenConfig(**listen), compass=Compass(), troubles=Troubles(states))
    send, receive = anyio.create_memory_object_stream[Told](10_000)
    async with receive, anyio.create_task_group() as group:
        group.start_soon(ears.run, send)
        yield ears, receive, states
        group.cancel_scope.cancel()


async def write(path: Path, sound: NDArray[np.int16]) -> None:
    """Write into a pipe and close it."""

    def whole() -> None:
        with path.open("wb") as pipe:
            pipe.write(sound.astype("<i2").tobytes())

    await anyio.to_thread.run_sync(whole)


async def told(receive: MemoryObjectReceiveStream[Told]) -> list[tuple[str, float | None]]:
    """Return what happened up to the end of the next utterance; the voice left out."""
    found: list[tuple[str, float | None]] = []
    with anyio.fail_after(20):
        while True:
            happening, degrees = await receive.receive()
            if isinstance(happening, Woken):
                found.append((happening.word or "awaited", degrees))
            elif isinstance(happening, Ended):
                found.append((happening.reason, degrees))
                return found
            else:
                assert isinstance(happening, Voice)


async def test_a_pipe_that_is_not_there_yet_that_closes_and_is_written_to_again(tmp_path: Path) -> None:
    pipe = tmp_path / "microphone"
    async with listening(pipe) as (ears, receive, states):
        await states.until("No such file")
        os.mkfifo(pipe)
        await states.until("recovered")
        await write(pipe, said(recorded("1-time-joe")))
        assert await told(receive) == [("okay_nabu", None), ("silence", None)]
        await states.until("has closed it")
        assert ears.losses == 1
        await write(pipe, said(recorded("5-stop-joe")))
        assert await told(receive) == [("okay_nabu", None), ("silence", None)]
        assert states.said.count("recovered") == 2


async def test_a_writer_that_goes_in_mid_utterance(tmp_path: Path) -> None:
    pipe = tmp_path / "microphone"
    os.mkfifo(pipe)
    async with listening(pipe) as (_, receive, _states):
        await write(pipe, said(recorded("1-time-joe"))[: round(2.2 * 16_000)])
        assert await told(receive) == [("okay_nabu", None), ("lost", None)]


async def test_the_direction_comes_with_the_wake_word(tmp_path: Path) -> None:
    pipe = tmp_path / "microphone"
    os.mkfifo(pipe)
    mono = said(recorded("1-time-joe"))
    delayed = [np.roll(mono, samples) for samples in (0, 1, 2, 1)]  # from the first microphone's side
    sound = np.stack([mono, *delayed, mono], axis=1).reshape(-1)
    async with listening(pipe, channels=6) as (_, receive, _states):
        await write(pipe, sound)
        (word, degrees), ended = await told(receive)
    assert (word, ended) == ("okay_nabu", ("silence", None))
    assert degrees is not None
    assert min(degrees, 360 - degrees) < 15


async def test_a_recording_ends_and_the_ears_are_done(tmp_path: Path) -> None:
    from tests.plugins.test_respeaker_capture import wav  # noqa: PLC0415 - writes it as recorders do

    path = wav(tmp_path / "a.wav", said(recorded("1-time-joe"))[:, None])
    async with listening(path, source="file") as (_, receive, states):
        assert await told(receive) == [("okay_nabu", None), ("silence", None)]
        with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
            await receive.receive()
    assert not states.said


async def test_an_awaited_answer_begins_with_the_next_sound(tmp_path: Path) -> None:
    pipe = tmp_path / "microphone"
    os.mkfifo(pipe)
    async with listening(pipe, no_speech_s=1.0) as (ears, receive, _states):
        ears.listen()
        await write(pipe, hush(2.0))
        assert await told(receive) == [("awaited", None), ("nothing", None)]


@pytest.mark.parametrize(("score", "words"), [(0.9, ["okay_nabu", "silence"]), (0.1, [])])
async def test_a_second_opinion_is_asked_for_beside_the_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, words: list[str]
) -> None:
    asked = []

    class Opinion:
        def __init__(self, words: object) -> None:
            pass

        def score(self, word: str, pcm: bytes) -> float:
            asked.append((word, len(pcm)))
            return score

    import sparkd_plugins.respeaker_voice.wake_word as words_module  # noqa: PLC0415

    monkeypatch.setattr(words_module, "Confirming", Opinion)
    pipe = tmp_path / "microphone"
    os.mkfifo(pipe)
    async with listening(pipe, confirm="openwakeword") as (ears, receive, states):
        sound = said(recorded("1-time-joe")).astype("<i2").tobytes()
        with await anyio.to_thread.run_sync(pipe.open, "wb", 0) as writer:
            for begin in range(0, len(sound), 3200):
                await anyio.to_thread.run_sync(writer.write, sound[begin : begin + 3200])
                await anyio.sleep(0.01)
        if words:
            assert [word for word, _ in await told(receive)] == words
        else:
            await states.until("has closed it")
            assert ears.listener is not None
            assert ears.listener.stats["unconfirmed"] == 1
    assert asked[0][0] == "okay_nabu"
    assert 32_000 < asked[0][1] <= 65_000


async def test_a_package_that_is_missing_is_a_device_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymicro_wakeword", None)
    pipe = tmp_path / "microphone"
    os.mkfifo(pipe)
    with pytest.RaisesGroup(pytest.RaisesExc(DeviceError, match="wake words need a package"), flatten_subgroups=True):
        async with listening(pipe):
            await anyio.sleep(5)
