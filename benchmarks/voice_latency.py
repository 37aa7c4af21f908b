"""What a voice node costs and how long it takes: from the end of an utterance to the first sound of the answer.

One daemon runs `respeaker-voice` and `voice-services` with the models of `make demo-voice`. Three parts, each in real
time from a six-channel WAV file as its microphone:

*Listening*: a minute of quiet, of loud noise, and of speech without a wake word; what the process of `respeaker-voice`
uses of one core meanwhile, reading the file and pacing it included.
*Latency*: the recordings of the demo, ROUNDS times over; the traces that the service itself publishes, stage by stage.
*Memory*: proportional and private size of each process after that.

    python benchmarks/voice_latency.py [--rounds 6] [--listen-s 60]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sparkd.demo_voice import CONFIG, utterances
from sparkd.testing import Node, descendants, short_folder
from sparkd_plugins.respeaker_voice.demo import CHANNELS, RECORDINGS, heard, scene

RATE_HZ = 16_000
SETTLE_S = 6.0
SPEECH_FROM_S = 1.15
"""The wake word of each recording is over by then."""


def cpu_s(pid: int) -> float:
    """Return the processor time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sizes(pid: int) -> tuple[float, float]:
    """Return PSS and private memory of one process in MB."""
    rows = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kb = {name: int(value.split()[0]) for name, value in rows.items()}
    return kb["Pss"] * 1024 / 1e6, (kb["Private_Clean"] + kb["Private_Dirty"]) * 1024 / 1e6


def write(path: Path, mono: np.ndarray[Any, np.dtype[np.float64]], chance: np.random.Generator) -> Path:
    """Write *mono* as the array would hear it from 90 degrees."""
    with wave.open(str(path), "wb") as file:
        file.setparams((CHANNELS, 2, RATE_HZ, 0, "NONE", ""))
        for begin in range(0, len(mono), 10 * RATE_HZ):
            file.writeframes(heard(mono[begin : begin + 10 * RATE_HZ], 90.0, chance).tobytes())
    return path


def backgrounds(root: Path, length_s: float) -> Iterator[tuple[str, Path]]:
    """Yield what is listened to, by name."""
    chance, frames = np.random.default_rng(7), round(length_s * RATE_HZ)
    yield "quiet", write(root / "quiet.wav", chance.normal(0, 8, frames), chance)
    yield "loud noise", write(root / "noise.wav", chance.normal(0, 1500, frames), chance)
    talk = []
    for path in sorted(RECORDINGS.glob("*.wav")):
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)
        talk.append(samples[round(SPEECH_FROM_S * RATE_HZ) :])
    once = np.concatenate(talk)
    yield "speech", write(root / "speech.wav", np.resize(once, frames), chance)


def voice_pid(node: Node, name: str = "respeaker-voice") -> int:
    """Return the process of a service."""
    found = {service["name"]: service for service in node.call("node.status")["services"]}
    return int(found[name]["pid"])


def started(root: Path, recording: Path) -> Node:
    """Start a node with *recording* as its microphone."""
    config = CONFIG.format(scene=recording, spoken=root / "spoken")
    return Node("spark-agent", root, config).prepare().start()


def listening(length_s: float) -> None:
    """Print what listening costs."""
    with short_folder() as folder:
        for index, (name, recording) in enumerate(backgrounds(folder, length_s + SETTLE_S + 5)):
            root = folder / str(index)
            root.mkdir()
            node = started(root, recording)
            try:
                pid = voice_pid(node)
                time.sleep(SETTLE_S)
                before, begin = cpu_s(pid), time.monotonic()
                time.sleep(length_s)
                share = (cpu_s(pid) - before) / (time.monotonic() - begin)
                print(f"listening, {name:11} {share:6.1%} of a core", flush=True)
            finally:
                node.stop()


def latency(rounds: int) -> None:
    """Print how long each stage takes, then the memory."""
    with short_folder() as root:
        recording = root / "scene.wav"
        once = scene(recording, (30.0, 120.0, 210.0, 300.0), pause_s=8.0)
        with wave.open(str(recording), "rb") as file:
            frames = file.readframes(file.getnframes())
        with wave.open(str(recording), "wb") as file:
            file.setparams((CHANNELS, 2, RATE_HZ, 0, "NONE", ""))
            for _ in range(rounds):
                file.writeframes(frames)
        length_s = rounds * len(frames) / 2 / CHANNELS / RATE_HZ
        node = started(root, recording)
        try:
            traces = list(utterances(node, limit_s=length_s + 15))
            show(traces, rounds * len(once))
            show_memory(node)
        finally:
            node.stop()


def show(traces: list[dict[str, Any]], expected: int) -> None:
    """Print the medians and worst cases; the first round, in which models are loaded, apart."""
    print(f"{len(traces)} of {expected} utterances, outcomes: {sorted({trace['outcome'] for trace in traces})}")
    warm = traces[len(traces) and 5 :]
    for name in ("record", "transcribe", "reply", "synthesize", "play"):
        took = [stage["took_ms"] for trace in warm for stage in trace["stages"] if stage["name"] == name]
        by = {stage["by"] for trace in warm for stage in trace["stages"] if stage["name"] == name and stage["by"]}
        if took:
            print(f"{name:11} median {statistics.median(took):7.0f} ms, worst {max(took):7.0f} ms  {', '.join(by)}")
    first = [trace["first_audio_ms"] for trace in warm if trace["first_audio_ms"] is not None]
    if first:
        print(f"from the end to the first sound: median {statistics.median(first):.0f} ms, worst {max(first):.0f} ms")
    cold = traces[0]["first_audio_ms"] if traces else None
    print(f"the very first utterance, models not loaded: {cold} ms")


def show_memory(node: Node) -> None:
    """Print the memory of each process of *node*."""
    if node.process is None:
        return
    names = {service["pid"]: service["name"] for service in node.call("node.status")["services"]}
    for pid in [node.process.pid, *descendants(node.process.pid)]:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[-60:]
        pss, private = sizes(pid)
        print(f"memory {names.get(pid, command):60} PSS {pss:6.1f} MB, private {private:6.1f} MB")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--listen-s", type=float, default=60.0)
    options = parser.parse_args()
    listening(options.listen_s)
    latency(options.rounds)


if __name__ == "__main__":
    main()
