"""Pictures from one process to another: shared memory against raw pyzmq through a proxy.

A publisher process sends frames of 1920 x 1080 RGB (6.2 MB), a subscriber process takes each as a numpy array and sums
a part of it. Ours: a typed event with an `Array`, so the broker passes on a reference and the frame is written into
shared memory once. The baseline: blocking PUB and SUB in processes of their own with `zmq.proxy` in a third, the frame
sent and received without pyzmq's copies (`copy=False`), in three parts as ours. *Latency* is from before publishing to
the array in the reader's hand, at 30 frames a second. *Throughput*: the next frame is sent when the reader says that it
has the last but two, so no side may drop. CPU is of all three processes; PSS of all three together, at its highest.

    python benchmarks/shm.py [--rounds N] [--frames N] [--paced N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import uvloop
import zmq

from sparkd import Array, Policy, event
from sparkd.bus import Broker, BusClient, BusLimits
from sparkd.shm import make_root
from sparkd.testing import pss_bytes

SHAPE = (1080, 1920, 3)
FRAME_BYTES = 1080 * 1920 * 3
PER_S = 30
AHEAD = 3
"""Frames under way in a burst."""
SHM_BYTES = 64 << 20
TOPIC = "bench.frame"
_STAMP = struct.Struct("<q")


@event(TOPIC)
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    sent_ns: int
    picture: Array


Control = socket.socket


def pictures() -> list[np.ndarray[Any, Any]]:
    """Return a few frames, so that no side gains by sending the same."""
    chance = np.random.default_rng(1)
    return [chance.integers(0, 255, SHAPE, dtype=np.uint8) for _ in range(4)]


def read_picture(picture: np.ndarray[Any, Any]) -> int:
    """Look at a part of a frame, as a detector that scales it down would."""
    return int(picture[::8, ::8].sum())


def raw_broker(folder: Path, _control: Control) -> None:
    with zmq.Context() as context:
        publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
        publishers.bind(f"ipc://{folder / 'raw.pub'}")
        subscribers.bind(f"ipc://{folder / 'raw.sub'}")
        zmq.proxy(publishers, subscribers)


def our_broker(folder: Path, _control: Control) -> None:
    async def main() -> None:
        make_root(folder)
        async with Broker(folder).open():
            await anyio.sleep_forever()

    uvloop.run(main())


def raw_publisher(folder: Path, control: Control) -> None:
    frames = pictures()
    with zmq.Context() as context:
        out = context.socket(zmq.PUB)
        out.connect(f"ipc://{folder / 'raw.pub'}")
        while True:
            (number,) = _STAMP.unpack(control.recv(8))
            now = time.monotonic_ns()
            out.send_multipart([TOPIC.encode(), _STAMP.pack(now), frames[number % 4]], copy=False)


def our_publisher(folder: Path, control: Control) -> None:
    async def main() -> None:
        frames = pictures()
        client = BusClient(folder, node="n", service="bench", limits=BusLimits(shm_max_bytes=SHM_BYTES))
        async with client.open():
            control.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
            while True:
                await anyio.wait_readable(control)
                (number,) = _STAMP.unpack(control.recv(8))
                now = time.monotonic_ns()
                await client.publish(Frame(sent_ns=now, picture=Array.of(frames[number % 4])))

    uvloop.run(main())


def raw_subscriber(folder: Path, control: Control) -> None:
    with zmq.Context() as context:
        into = context.socket(zmq.SUB)
        into.connect(f"ipc://{folder / 'raw.sub'}")
        into.subscribe(TOPIC.encode())
        while True:
            _topic, stamp, body = into.recv_multipart(copy=False)
            picture = np.frombuffer(body.buffer, np.uint8).reshape(SHAPE)
            took = time.monotonic_ns() - _STAMP.unpack(stamp.bytes)[0]
            control.send(_STAMP.pack(took) + _STAMP.pack(read_picture(picture)))


def our_subscriber(folder: Path, control: Control) -> None:
    async def main() -> None:
        client = BusClient(folder, node="n", service="reader")
        async with client.open(), client.subscribe(Frame, policy=Policy.DROP_OLDEST) as events:
            async for received in events:
                picture = received.event.picture.view()
                took = time.monotonic_ns() - received.event.sent_ns
                control.send(_STAMP.pack(took) + _STAMP.pack(read_picture(picture)))

    uvloop.run(main())


@contextmanager
def child(main: Callable[[Path, Control], None], folder: Path) -> Iterator[tuple[int, Control]]:
    """Run *main* in a process of its own; give its pid and the socket to it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            main(folder, its)
        finally:
            os._exit(1)
    try:
        yield pid, ours
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


class Side:
    """One path: three processes."""

    def __init__(self, stack: ExitStack, folder: Path, mains: tuple[Callable[[Path, Control], None], ...]) -> None:
        broker, publisher, subscriber = mains
        begun = [stack.enter_context(child(broker, folder))]
        time.sleep(0.5)  # for the broker to listen
        begun += [stack.enter_context(child(main, folder)) for main in (subscriber, publisher)]
        self.pids = [pid for pid, _ in begun]
        self.reader, self.writer = begun[1][1], begun[2][1]
        self.reader.settimeout(0.2)
        self.number = self.lost = 0
        self._warm()

    def _warm(self) -> None:
        """Return once frames come through."""
        for _ in range(100):
            self.send()
            if self.receive() is not None:
                break
        while self.receive() is not None:
            pass

    def send(self) -> None:
        self.number += 1
        self.writer.send(_STAMP.pack(self.number))

    def receive(self) -> int | None:
        """Return how long the next frame took, in ns; None if none comes."""
        try:
            return int(_STAMP.unpack_from(self.reader.recv(16))[0])
        except TimeoutError:
            return None

    def burst(self, count: int) -> float:
        """Return frames a second."""
        begun, came = time.perf_counter(), 0
        for _ in range(AHEAD):
            self.send()
        for number in range(count):
            came += self.receive() is not None
            if number < count - AHEAD:
                self.send()
        self.lost += count - came
        return came / (time.perf_counter() - begun)

    def paced(self, count: int) -> list[float]:
        """Return how long each frame took, in milliseconds."""
        took, due = [], time.monotonic()
        for _ in range(count):
            due += 1 / PER_S
            time.sleep(max(0.0, due - time.monotonic()))
            self.send()
            found = self.receive()
            self.lost += found is None
            took += [] if found is None else [found / 1e6]
        return took

    def cpu_s(self) -> float:
        """Return the processor time of the three processes so far."""
        ticks = 0
        for pid in self.pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the proportional set size of the three processes together."""
        return sum(pss_bytes(pid) for pid in self.pids) / 1e6


def watch(sides: dict[str, Side], peaks: dict[str, float], over: threading.Event) -> None:
    while not over.wait(0.2):
        for name, side in sides.items():
            peaks[name] = max(peaks[name], side.memory_mb())


def measure(sides: dict[str, Side], options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    times: dict[str, list[float]] = {name: [] for name in sides}
    cpu = dict.fromkeys(sides, 0.0)
    peaks, over = dict.fromkeys(sides, 0.0), threading.Event()
    watcher = threading.Thread(target=watch, args=(sides, peaks, over))
    watcher.start()
    for number in range(options.rounds):
        for name in sides if number % 2 else reversed(sides):
            rates[name].append(sides[name].burst(options.frames))
        for name, side in sides.items():
            before = side.cpu_s()
            times[name] += side.paced(options.paced)
            cpu[name] += side.cpu_s() - before
    over.set()
    watcher.join()
    frames = options.rounds * options.paced
    p = {name: statistics.quantiles(found, n=100) for name, found in times.items()}
    ratios = [ours / raw for ours, raw in zip(rates["sparkd"], rates["raw"], strict=True)]
    return {
        "frame_mb": FRAME_BYTES / 1e6,
        "mb_per_s": {name: round(statistics.median(found) * FRAME_BYTES / 1e6) for name, found in rates.items()},
        "throughput_ratio": round(statistics.median(ratios), 2),
        "throughput_pairs": [round(ratio, 2) for ratio in ratios],
        "latency_p50_ms": {name: round(cuts[49], 2) for name, cuts in p.items()},
        "latency_p99_ms": {name: round(cuts[98], 2) for name, cuts in p.items()},
        "latency_p50_ratio": round(p["sparkd"][49] / p["raw"][49], 2),
        "latency_p99_ratio": round(p["sparkd"][98] / p["raw"][98], 2),
        "cpu_ms_per_frame": {name: round(spent / frames * 1000, 2) for name, spent in cpu.items()},
        "pss_peak_mb": {name: round(peak) for name, peak in peaks.items()},
        "lost": {name: side.lost for name, side in sides.items()},
        "rounds": options.rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures through shared memory against raw pyzmq.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--paced", type=int, default=60)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="spark", dir=place) as name, ExitStack() as stack:
        folder = Path(name)
        sides = {
            "raw": Side(stack, folder, (raw_broker, raw_publisher, raw_subscriber)),
            "sparkd": Side(stack, folder, (our_broker, our_publisher, our_subscriber)),
        }
        result = measure(sides, options)
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
