"""voice-services in a real daemon: spoken to by Wyoming, killed, back again, and nothing of it left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sparkd import DeviceError, Transcript
from sparkd.testing import Node, descendants, free_port, short_folder
from sparkd_plugins.respeaker_voice.wyoming_client import WyomingSpeech
from tests.plugins.spoken import NEEDS_ESPEAK, espeak
from tests.system.watching import runs, service, until

PLUGIN = "from sparkd_plugins.voice_services import sparkd_services\n"
TEXT = "Turn on the kitchen lights."


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def node(port: int) -> Iterator[Node]:
    config = (
        f'[node]\nname = "voice"\n[plugins.voice-services]\nthreads = 1\ntts = ["espeak-ng"]\nwyoming_port = {port}\n'
    )
    with short_folder() as root:
        made = Node("voice", root, config).prepare()
        (made.plugins / "voice-services.py").write_text(PLUGIN)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def heard(port: int) -> Transcript | None:
    async def ask() -> Transcript | None:
        try:
            with anyio.fail_after(20):
                return await WyomingSpeech("127.0.0.1", port, connect_s=2).transcribe(
                    espeak(TEXT), rate_hz=22_050, language="en"
                )
        except DeviceError:
            return None

    return anyio.run(ask)


def workers(node: Node) -> list[int]:
    assert node.process is not None
    return [pid for pid in descendants(node.process.pid) if b"whisper_worker" in command(pid)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@NEEDS_ESPEAK
def test_speech_survives_the_death_of_its_service_and_leaves_no_process(node: Node, port: int) -> None:
    first = runs(node, "voice-services", limit_s=20)
    answer = until(lambda: heard(port), lambda found: found, limit_s=20)
    assert answer is not None
    assert "kitchen" in answer.text.lower()
    assert first["state"] == "running"
    (worker,) = workers(node)

    os.kill(service(node, "voice-services")["pid"], signal.SIGKILL)
    until(lambda: command(worker), lambda found: not found)
    until(lambda: service(node, "voice-services"), lambda found: found["restarts"] == 1, limit_s=20)
    answer = until(lambda: heard(port), lambda found: found, limit_s=30)
    assert answer is not None
    assert "kitchen" in answer.text.lower()
    (worker,) = workers(node)

    assert node.stop() == 0
    assert not command(worker)
