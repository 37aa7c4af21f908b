"""The bus against raw pyzmq: how many events a second, and how long one takes.

*Throughput*: a publisher process, a broker process and this process, an asynchronous subscriber on uvloop; typed events
of 300 bytes, encoded by the publisher, header and body decoded into their types, gaps counted. The baseline is raw
blocking pyzmq, also in three processes: a PUB that encodes the same frames from lists and dicts, `zmq.proxy` between
XSUB and XPUB, and a SUB with `recv_multipart` that decodes header and body into lists and dicts. Both by msgspec; with
`--unpack msgpack` the baseline decodes by msgpack. A round is a fixed number of events as fast as they go, from the
moment the publisher is told until the last is decoded; every queue is longer than that, and what is lost is shown.

*Latency*: 1,000 events a second over the same two paths, from before publishing to after decoding. Each reader waits as
it would at work: ours in the event loop, the raw one in a blocking receive. What an event loop costs by itself is shown
by a third reader of the raw path, `zmq.asyncio` on the same loop.

Rounds alternate; a ratio is the median of the pairs' ratios.

    python benchmarks/bus.py [--rounds N] [--events N] [--latency-events N] [--unpack msgspec|msgpack]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgpack
import msgspec
import uvloop
import zmq
import zmq.asyncio

from sparkd import Policy, event
from sparkd.bus import Broker, BusClient, BusLimits
from sparkd.codec import encode_body

TOPIC = "edge.sensors.bench"
HIGH_WATER = 1_000_000
LIMITS = BusLimits(high_water=HIGH_WATER, flood_messages_per_s=1e7, flood_bytes_per_s=1e12)
"""Counted against bounds that are never met: what counting costs is in the figures."""
RATE_PER_S = 1000
YIELD_EVERY = 100
"""A publisher that never waits must let its event loop run."""
SILENCE_S = 5.0
"""Without an event for so long, the rest of a round counts as lost."""
SETTLE_S = 0.1
"""For a subscription to get through."""
WARM, GO, PACED = b"warm", b"go", b"paced"
FIXED: dict[str, Any] = {
    "sensor": "bme280-workshop",
    "quantity": "temperature",
    "unit": "degC",
    "value": 21.37,
    "history": [21.1, 21.2, 21.2, 21.3, 21.3, 21.4, 21.4],
    "labels": {"room": "workshop", "shelf": "upper", "bus": "i2c-1"},
    "note": "calibrated, " * 7 + "twice!",
}
BODY_BYTES = 300


@event(TOPIC)
@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    sent_ns: int
    sensor: str
    quantity: str
    unit: str
    value: float
    history: list[float]
    labels: dict[str, str]
    note: str


Publish = Callable[[int, bool], Awaitable[None]]
"""Publishes so many events, paced or not."""


def listen(control: socket.socket) -> tuple[bytes, int]:
    word, _, count = control.recv(64).partition(b" ")
    return word, int(count or 0)


# The raw side.


def raw_broker(folder: Path, _control: socket.socket) -> None:
    context = zmq.Context()
    publishers, subscribers = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for side, name in ((publishers, "raw.pub"), (subscribers, "raw.sub")):
        side.set_hwm(HIGH_WATER)
        side.bind(f"ipc://{folder / name}")
    zmq.proxy(publishers, subscribers)


def raw_publisher(folder: Path, control: socket.socket) -> None:
    publisher = zmq.Context().socket(zmq.PUB)
    publisher.set_hwm(HIGH_WATER)
    publisher.connect(f"ipc://{folder / 'raw.pub'}")
    encode, seq, topic = msgspec.msgpack.Encoder().encode, 0, TOPIC.encode()
    while True:
        word, count = listen(control)
        if word == WARM:
            publisher.send_multipart((topic, b"", b""))
            continue
        due = time.monotonic()
        for _ in range(count):
            if word == PACED:
                due += 1 / RATE_PER_S
                time.sleep(max(0.0, due - time.monotonic()))
            seq += 1
            body = encode({"sent_ns": time.monotonic_ns(), **FIXED})
            header = encode([1, "here", "bench", seq, time.time_ns(), 1 << 62, time.monotonic_ns(), 1, None])
            publisher.send_multipart((topic, header, body))


class RawSubscriber:
    def __init__(self, folder: Path, unpack: str) -> None:
        self.socket = zmq.Context().socket(zmq.SUB)
        self.socket.set_hwm(HIGH_WATER)
        self.socket.setsockopt(zmq.RCVTIMEO, int(SILENCE_S * 1000))
        self.socket.connect(f"ipc://{folder / 'raw.sub'}")
        self.socket.subscribe(TOPIC.encode())
        self.decode = msgspec.msgpack.Decoder().decode if unpack == "msgspec" else msgpack.unpackb

    def warm(self, control: socket.socket) -> None:
        """Return once an event has come through."""
        while not self.socket.poll(20):
            control.send(WARM)
        while self.socket.poll(200):
            self.socket.recv_multipart()

    async def take(self, count: int) -> list[int]:
        """Return how long each event took, in ns."""
        receive, decode, took, now = self.socket.recv_multipart, self.decode, list[int](), time.monotonic_ns
        try:
            for _ in range(count):
                _topic, header, body = receive()
                decode(header)
                took.append(-decode(body)["sent_ns"] + now())
        except zmq.Again:
            pass
        return took


class RawAsyncSubscriber:
    """Reads the raw path in the event loop, in its turn instead of *blocking*."""

    def __init__(self, folder: Path, blocking: RawSubscriber) -> None:
        self.other = blocking.socket
        self.socket = zmq.asyncio.Context().socket(zmq.SUB)
        self.socket.set_hwm(HIGH_WATER)
        self.socket.connect(f"ipc://{folder / 'raw.sub'}")
        self.decode = msgspec.msgpack.Decoder().decode

    async def begin(self) -> None:
        self.other.unsubscribe(TOPIC.encode())
        self.socket.subscribe(TOPIC.encode())
        await anyio.sleep(SETTLE_S)

    async def take(self, count: int) -> list[int]:
        """Return how long each event took, in ns."""
        took, now = list[int](), time.monotonic_ns
        with anyio.move_on_after(SILENCE_S + count / RATE_PER_S):
            for _ in range(count):
                _topic, header, body = await self.socket.recv_multipart()
                self.decode(header)
                took.append(-self.decode(body)["sent_ns"] + now())
        self.socket.unsubscribe(TOPIC.encode())
        self.other.subscribe(TOPIC.encode())
        await anyio.sleep(SETTLE_S)
        return took


# Our side.


def our_broker(folder: Path, _control: socket.socket) -> None:
    async def main() -> None:
        async with Broker(folder, high_water=HIGH_WATER).open():
            await anyio.sleep_forever()

    uvloop.run(main())


def our_publisher(folder: Path, control: socket.socket) -> None:
    async def main() -> None:
        client = BusClient(folder, node="here", service="bench", publishes=[TOPIC], limits=LIMITS)
        async with client.open():
            while True:
                word, count = await anyio.to_thread.run_sync(listen, control)
                due = time.monotonic()
                for number in range(count):
                    if word == PACED:
                        due += 1 / RATE_PER_S
                        await anyio.sleep(max(0.0, due - time.monotonic()))
                    elif number % YIELD_EVERY == 0:
                        await anyio.lowlevel.checkpoint()
                    await client.publish(Sample(sent_ns=time.monotonic_ns(), **FIXED))

    uvloop.run(main())


class OurSubscriber:
    def __init__(self, subscription: Any) -> None:
        self.subscription = subscription

    async def take(self, count: int) -> list[int]:
        """Return how long each event took, in ns."""
        took, now, left = list[int](), time.monotonic_ns, count
        with anyio.move_on_after(SILENCE_S + count / RATE_PER_S):
            async for received in self.subscription:
                took.append(now() - received.event.sent_ns)
                left -= 1
                if not left:
                    break
        return took


@contextmanager
def child(main: Callable[[Path, socket.socket], None], folder: Path) -> Iterator[socket.socket]:
    """Run *main* in a process of its own; give the socket to tell it things."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            main(folder, its)
        finally:
            os._exit(1)
    try:
        yield ours
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


@dataclass
class Side:
    control: socket.socket
    take: Callable[[int], Awaitable[list[int]]]
    begin: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint

    async def burst(self, count: int) -> tuple[float, int]:
        """Return events a second, and how many were lost."""
        begun = time.perf_counter()
        self.control.send(b"%s %d" % (GO, count))
        took = await self.take(count)
        return len(took) / (time.perf_counter() - begun), count - len(took)

    async def paced(self, count: int) -> list[float]:
        """Return how long each event took, in microseconds."""
        await self.begin()
        self.control.send(b"%s %d" % (PACED, count))
        return [nanoseconds / 1000 for nanoseconds in await self.take(count)]


async def measure(folder: Path, controls: dict[str, socket.socket], options: argparse.Namespace) -> dict[str, Any]:
    reader = BusClient(folder, node="here", service="reader", reads=[TOPIC], limits=LIMITS)
    raw = RawSubscriber(folder, options.unpack)
    raw.warm(controls["raw"])
    async with reader.subscribe(Sample, policy=Policy.ALL, limit=HIGH_WATER) as subscription:
        raw_async = RawAsyncSubscriber(folder, raw)
        sides = {
            "raw": Side(controls["raw"], raw.take),
            "zmq.asyncio": Side(controls["raw"], raw_async.take, raw_async.begin),
            "sparkd": Side(controls["sparkd"], OurSubscriber(subscription).take),
        }
        return await rounds(sides, options) | {"gaps_counted": subscription.lost, "dropped": subscription.dropped}


async def rounds(sides: dict[str, Side], options: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"raw": [], "sparkd": []}
    times: dict[str, list[list[float]]] = {name: [] for name in sides}
    lost = dict.fromkeys(rates, 0)
    for name in rates:
        await sides[name].burst(options.events // 4)  # warm
    for number in range(options.rounds):
        for name in rates if number % 2 else reversed(rates):
            rate, missing = await sides[name].burst(options.events)
            rates[name].append(rate)
            lost[name] += missing
        for name, side in sides.items():
            times[name].append(await side.paced(options.latency_events))
    return report(rates, times) | {"rounds": options.rounds, "events": options.events, "lost": lost}


def report(rates: dict[str, list[float]], times: dict[str, list[list[float]]]) -> dict[str, Any]:
    cuts = {
        name: [(found[49], found[98]) for found in (statistics.quantiles(one, n=100) for one in each)]
        for name, each in times.items()
    }
    pairs = [ours / theirs for ours, theirs in zip(rates["sparkd"], rates["raw"], strict=True)]
    result: dict[str, Any] = {
        "events_per_s": {name: round(statistics.median(found)) for name, found in rates.items()},
        "throughput_ratio": round(statistics.median(pairs), 2),
        "throughput_pairs": [round(pair, 2) for pair in pairs],
        "throughput_target": 0.85,
    }
    for index, which in enumerate(("p50", "p99")):
        ratios = [o[index] / t[index] for o, t in zip(cuts["sparkd"], cuts["raw"], strict=True)]
        result[f"latency_{which}_us"] = {
            name: round(statistics.median(one[index] for one in found), 1) for name, found in cuts.items()
        }
        result[f"latency_{which}_ratio"] = round(statistics.median(ratios), 2)
        beside = [o[index] / t[index] for o, t in zip(cuts["sparkd"], cuts["zmq.asyncio"], strict=True)]
        result[f"latency_{which}_ratio_to_zmq.asyncio"] = round(statistics.median(beside), 2)
    return result | {"latency_target": 1.3}


def main() -> None:
    parser = argparse.ArgumentParser(description="The bus against raw pyzmq.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--latency-events", type=int, default=1500)
    parser.add_argument("--unpack", choices=("msgspec", "msgpack"), default="msgspec")
    options = parser.parse_args()
    assert len(encode_body(Sample(sent_ns=time.monotonic_ns(), **FIXED))) == BODY_BYTES
    with tempfile.TemporaryDirectory(prefix="spark") as name:
        folder = Path(name)
        with (
            child(raw_broker, folder),
            child(our_broker, folder),
            child(raw_publisher, folder) as raw,
            child(our_publisher, folder) as ours,
        ):
            result = uvloop.run(measure(folder, {"raw": raw, "sparkd": ours}, options))
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
