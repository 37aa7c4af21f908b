"""A voice node as it runs: a wake word in a pipe, and an answer in a folder; nothing else stops when parts of it go."""

from __future__ import annotations

import os
import signal
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from sparkd.rpc.client import Client
from sparkd.testing import Node, free_port, short_folder
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from tests.plugins.recorded import recorded, said
from tests.plugins.spoken import NEEDS_ESPEAK
from tests.system.watching import runs, service, until

CONFIG = """\
[node]
name = "spark-agent"
[plugins.voice-services]
threads = 1
tts = ["espeak-ng"]
wyoming_port = 0
[plugins.respeaker-voice]
array = false
[plugins.respeaker-voice.microphone]
source = "pipe"
path = "{pipe}"
[plugins.respeaker-voice.answer]
retry_s = 0.0
[[plugins.respeaker-voice.answer.stt]]
kind = "local"
deadline_s = 40.0
[[plugins.respeaker-voice.answer.tts]]
kind = "local"
deadline_s = 40.0
[plugins.respeaker-voice.answer.playback]
kind = "file"
path = "{spoken}"
[plugins.respeaker-voice.wyoming_door]
enabled = true
port = {door}
announce = false
"""


class Room:
    """A node with a pipe for a microphone and a folder for a loudspeaker."""

    def __init__(self, node: Node, pipe: Path, spoken: Path, door: int) -> None:
        self.node, self.pipe, self.spoken, self.door = node, pipe, spoken, door
        self.traces: list[dict[str, Any]] = []
        self._client = Client(node.socket_path)
        threading.Thread(target=self._follow, daemon=True).start()

    def say(self, sound: NDArray[np.int16]) -> None:
        """Write *sound* into the pipe and close it, as a recorder that is switched off."""
        with self.pipe.open("wb") as pipe:
            pipe.write(sound.astype("<i2").tobytes())

    def answer(self, count: int) -> dict[str, Any]:
        """Return the trace of utterance *count*, once it is there."""
        until(lambda: len(self.traces), lambda found: found >= count, limit_s=60)
        return self.traces[count - 1]

    def close(self) -> None:
        self._client.close()

    def _follow(self) -> None:
        try:
            for item in self._client.results("bus.subscribe", {"topics": ["edge.voice.utterance"]}):
                self.traces.append(item["event"])
        except OSError:
            return


@pytest.fixture
def room() -> Iterator[Room]:
    with short_folder() as root:
        pipe, spoken = root / "microphone", root / "spoken"
        os.mkfifo(pipe)
        door = free_port()
        node = Node("spark-agent", root, CONFIG.format(pipe=pipe, spoken=spoken, door=door)).prepare()
        for name in ("voice-services", "respeaker-voice"):
            (node.plugins / f"{name}.py").write_text(
                f"from sparkd_plugins.{name.replace('-', '_')} import sparkd_services\n"
            )
        node.start()
        runs(node, "voice-services", limit_s=30)
        runs(node, "respeaker-voice", limit_s=30)
        made = Room(node, pipe, spoken, door)
        try:
            yield made
        finally:
            node.stop()
            made.close()


async def through_the_door(port: int) -> tuple[list[str], list[str], int]:
    """Return the wake words and the voices that the door offers, and how much sound an answer through it is."""
    speech = WyomingSpeech("127.0.0.1", port, connect_s=5)
    with anyio.fail_after(60):
        told = await speech.describe()
        spoken = [sound.pcm async for sound in speech.synthesize("Good morning.", voice="")]
    wake = [model["name"] for program in told["wake"] for model in program["models"]]
    return wake, [voice["name"] for program in told["tts"] for voice in program["voices"]], len(b"".join(spoken))


@NEEDS_ESPEAK
@pytest.mark.timeout(180)
def test_a_question_is_answered_and_each_part_that_goes_comes_back(room: Room) -> None:
    node = room.node
    room.say(said(recorded("1-time-joe")))
    trace = room.answer(1)
    assert (trace["outcome"], trace["intent"]) == ("answered", "time")
    assert "time" in trace["text"].lower()
    assert trace["first_audio_ms"] > 0
    assert [stage["outcome"] for stage in trace["stages"]] == ["ok"] * 5
    (file,) = room.spoken.glob("answer-*.wav")
    with wave.open(str(file)) as spoken:
        assert spoken.getnframes() > spoken.getframerate() / 2

    os.kill(service(node, "voice-services")["pid"], signal.SIGKILL)
    until(lambda: service(node, "voice-services"), lambda found: found["restarts"] == 1, limit_s=20)
    runs(node, "voice-services", limit_s=20)
    room.say(said(recorded("5-stop-joe")))
    trace = room.answer(2)
    assert (trace["outcome"], trace["intent"]) == ("answered", "stop")

    node.call("plugins.stop", name="voice-services")
    room.say(said(recorded("1-time-joe")))
    assert room.answer(3)["outcome"] == "failed"
    node.call("plugins.start", name="voice-services")
    runs(node, "voice-services", limit_s=20)
    room.say(said(recorded("5-stop-joe")))
    assert room.answer(4)["outcome"] == "answered"
    assert service(node, "respeaker-voice")["restarts"] == 0
    wake, voices, spoken_bytes = anyio.run(through_the_door, room.door)
    assert wake == ["okay_nabu"]
    assert voices
    assert spoken_bytes > 10_000
    reply = node.call("dialog.reply", text="what time is it")
    assert reply["intent"] == "time"


def test_a_config_that_sends_the_voice_away_is_refused_where_it_stands(tmp_path: Path) -> None:
    away = '[[plugins.respeaker-voice.answer.stt]]\nkind = "wyoming"\nhost = "10.8.0.14"\nport = 10300\n'
    with short_folder() as root:
        node = Node("spark-agent", root, f'[node]\nname = "spark-agent"\n{away}').prepare()
        (node.plugins / "respeaker-voice.py").write_text("from sparkd_plugins.respeaker_voice import sparkd_services\n")
        node.start()
        try:
            state = until(
                lambda: service(node, "respeaker-voice"), lambda found: found["state"] != "starting", limit_s=20
            )
            assert "would take speech of the class 'local' off this site" in state["reason"]
            assert "same_site" in state["reason"]
        finally:
            node.stop()
