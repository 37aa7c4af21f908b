"""`make demo-voice`: recordings in, answers out, with real models: what was heard, from where, and how long it took.

One daemon runs `respeaker-voice` and `voice-services` as a voice node would. Its microphone is a file in which five
recordings come from four directions, as an array of four microphones would have heard them, played in real time; its
loudspeaker is a folder. Nothing outside a temporary folder is written, and nothing leaves the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparkd.rpc.client import Client
from sparkd.testing import Node, descendants, pss_bytes, short_folder

PAUSE_S = 9.0
"""Between two recordings: time to answer, and to be quiet again."""
DIRECTIONS = (30.0, 120.0, 210.0, 300.0)
PATIENCE_S = 30.0
"""So long after the last recording it is given up."""
CONFIG = """\
[node]
name = "spark-agent"
role = "edge"
site = "home"

[plugins.node-telemetry]

[plugins.voice-services]
wyoming_port = 0

[plugins.respeaker-voice]
array = false

[plugins.respeaker-voice.microphone]
source = "file"
path = "{scene}"

[plugins.respeaker-voice.answer.playback]
kind = "file"
path = "{spoken}"
"""


def scene(path: Path) -> list[Any]:
    """Write the recordings into *path*, and return what is said in it when."""
    said: list[Any] = import_module("sparkd_plugins.respeaker_voice.demo").scene(path, DIRECTIONS, pause_s=PAUSE_S)
    return said


def utterances(node: Node, *, limit_s: float) -> Iterator[dict[str, Any]]:
    """Yield the trace of each utterance as it is published, for *limit_s* seconds at the most."""

    def over(_signal: int, _frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        with Client(node.socket_path) as client:
            for item in client.results("bus.subscribe", {"topics": ["edge.voice.utterance"]}):
                yield item["event"]
    except TimeoutError:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def line(said: Any, heard: dict[str, Any] | None) -> list[str]:
    """Return the row of one recording."""
    if heard is None:
        return [said.name, f"{said.degrees:.0f}", "", "not heard", "", "", ""]
    degrees = "?" if heard["direction_deg"] is None else f"{heard['direction_deg']:.0f}"
    took = {stage["name"]: stage for stage in heard["stages"]}
    stages = "  ".join(
        f"{name} {took[name]['took_ms']:.0f}" for name in ("transcribe", "reply", "synthesize") if name in took
    )
    first = "" if heard["first_audio_ms"] is None else f"{heard['first_audio_ms']:.0f}"
    return [said.name, f"{said.degrees:.0f}", degrees, heard["text"], heard["reply"], stages, first]


def report(console: Console, node: Node, said: list[Any], heard: list[dict[str, Any]]) -> None:
    """Print what was heard of each recording, and the memory of each process."""
    table = Table(title="What was heard")
    for title in ("recording", "from", "found", "transcript", "answer", "ms", "first sound, ms"):
        table.add_column(title, overflow="fold")
    for one, trace in zip(said, [*heard, *([None] * (len(said) - len(heard)))], strict=True):
        table.add_row(*line(one, trace))
    console.print(table)
    if node.process is not None:
        names = {service["pid"]: service["name"] for service in node.call("node.status")["services"]}
        sizes = [("core", pss_bytes(node.process.pid))]
        sizes += [(names.get(pid, "a child"), pss_bytes(pid)) for pid in descendants(node.process.pid)]
        console.print("memory (PSS): " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes))


def main() -> int:
    """Run the demo. Exit code 0 if every recording was answered, else 1."""
    parser = argparse.ArgumentParser(prog="sparkd.demo_voice", description=__doc__)
    parser.parse_args()
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with short_folder() as root:
        recording, spoken = root / "scene.wav", root / "spoken"
        said = scene(recording)
        node = Node("spark-agent", root, CONFIG.format(scene=recording, spoken=spoken)).prepare()
        try:
            node.start()
            console.print(f"A voice node in {root}. It listens to {len(said)} recordings, in real time.")
            heard = list(_heard(console, node, said))
            report(console, node, said, heard)
            return 0 if len(heard) == len(said) else 1
        except KeyboardInterrupt:
            console.print("Stopped.")
            return 0
        finally:
            node.stop()


def _heard(console: Console, node: Node, said: list[Any]) -> Iterator[dict[str, Any]]:
    began = time.monotonic()
    for number, trace in enumerate(utterances(node, limit_s=said[-1].starts_s + PATIENCE_S), 1):
        console.print(f"{time.monotonic() - began:5.1f} s  heard: {trace['text']!r}; answered: {trace['reply']!r}")
        yield trace
        if number == len(said):
            return


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
