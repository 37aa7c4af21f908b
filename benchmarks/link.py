"""Events a second and call round trips over the link, against bare pyzmq with the same encryption in the same run.

Two servers, each in a process of its own: a blocking CURVE ROUTER of plain pyzmq that echoes or counts, and a node that
listens with `sparkd.link`. Rounds alternate. The bare side neither decodes nor checks anything. The link decodes each
event's header, judges it by topic, node and privacy at both ends, and looks up the sender's key with every message.
Run: `python benchmarks/link.py [rounds]`. Prints JSON.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import uvloop
import zmq

from sparkd.calls import frames as calls
from sparkd.codec import Header, Message, encode_header
from sparkd.config import LinkConfig, PeerConfig
from sparkd.link import Channel, Identity, KeyStore, Link, LinkHooks
from sparkd.privacy import Privacy
from sparkd.service import Received
from sparkd.testing import free_port

EVENTS_A_ROUND = 20_000
CALLS_A_ROUND = 1000
WINDOW, ACK_EVERY = 800, 200
"""Events under way: the link drops what its peer does not read, and a benchmark of dropping would flatter it."""
BODY = bytes(300)
HEADER = Header(1, "edge", "s", 1, 0, 1, 0, Privacy.SHARED)
EVENT = Message("test.x", HEADER, BODY)
CALL = calls.encode(calls.Request(1, "echo.echo", 5.0, Privacy.SHARED), b"\x05")
ANSWER = calls.encode(calls.End(1, answer=True), b"\x05")


class Silent:
    """A log that says nothing."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None: ...


class Counting:
    """The listening node's bus: counts events and tells the sender how far it is."""

    def __init__(self) -> None:
        self.count = 0
        self.channel: Channel | None = None

    def subscribe_messages(self, *topics: str) -> AbstractAsyncContextManager[AsyncIterator[Received[Message]]]:
        raise NotImplementedError(topics)

    def publish_message(self, message: Message) -> None:
        self.count += message.header.node == "edge"
        if self.count % ACK_EVERY == 0 and self.channel is not None:
            self.channel.send(ANSWER)


class Source:
    """The dialing node's bus: gives out rounds of events, as many at a time as the window allows."""

    def __init__(self) -> None:
        self.allowed = 0
        self.left = 0
        self.acknowledged = 0
        self.wake = anyio.Event()

    @asynccontextmanager
    async def subscribe_messages(self, *topics: str) -> AsyncIterator[AsyncIterator[Received[Message]]]:
        yield self._events(*topics)

    def publish_message(self, message: Message) -> None:
        raise NotImplementedError(message)

    async def _events(self, *_topics: str) -> AsyncIterator[Received[Message]]:
        received = Received(EVENT.topic, EVENT.header, EVENT)
        while True:
            while not (self.left and self.allowed):
                self.wake = anyio.Event()
                await self.wake.wait()
            self.left -= 1
            self.allowed -= 1
            yield received

    def acknowledge(self) -> None:
        self.acknowledged += ACK_EVERY
        self.allowed += ACK_EVERY
        self.wake.set()


def curve_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, keys: KeyStore, peer: str) -> zmq.Socket[bytes]:
    socket, pair = context.socket(kind), keys.load()
    socket.curve_publickey, socket.curve_secretkey = pair.public.encode(), pair.secret.encode()
    if kind == zmq.ROUTER:
        socket.curve_server = True
    else:
        socket.curve_serverkey = keys.trusted()[peer].encode()
    socket.linger = 0
    return socket


def bare_server(root: Path, port: int) -> None:
    """Echo calls; count events, and say so at the end of each round."""
    socket = curve_socket(zmq.Context(), zmq.ROUTER, KeyStore(root / "cloud"), "edge")
    socket.bind(f"tcp://127.0.0.1:{port}")
    count = 0
    while True:
        peer, kind, *rest = socket.recv_multipart()
        if kind == b"C":
            socket.send_multipart([peer, b"C", *rest])
            continue
        count += 1
        if count % EVENTS_A_ROUND == 0:
            socket.send_multipart([peer, b"done"])


class BareClient:
    """Blocking, as pyzmq is fastest."""

    def __init__(self, root: Path, port: int) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = curve_socket(self.context, zmq.DEALER, KeyStore(root / "edge"), "cloud")
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def events(self) -> float:
        frames = [b"E", EVENT.topic.encode(), encode_header(HEADER), BODY]
        began = time.perf_counter()
        for _ in range(EVENTS_A_ROUND):
            self.socket.send_multipart(frames)
        self.socket.recv_multipart()
        return EVENTS_A_ROUND / (time.perf_counter() - began)

    def calls(self) -> list[float]:
        frames, times = [b"C", *CALL], []
        for _ in range(CALLS_A_ROUND):
            began = time.perf_counter()
            self.socket.send_multipart(frames)
            self.socket.recv_multipart()
            times.append((time.perf_counter() - began) * 1e6)
        return times


def link(root: Path, name: str, config: LinkConfig, bus: Any, hooks: LinkHooks) -> Link:
    identity = Identity(name=name, node_id="0" * 32, site=name, role="edge")
    return Link(config, keys_dir=root / name, identity=identity, bus=bus, hooks=hooks, log=Silent())


async def link_server(root: Path, port: int) -> None:
    """Answer calls; count events, and say how far it is."""
    bus = Counting()

    def up(_peer: str, channel: Channel) -> None:
        bus.channel = channel

    def answer(_peer: str, _frames: list[bytes]) -> None:
        if bus.channel is not None:
            bus.channel.send(ANSWER)

    peers = {"edge": PeerConfig(site="edge", receive=["test"], calls=["echo.echo"])}
    config = LinkConfig(listen=f"127.0.0.1:{port}", peers=peers)
    async with link(root, "cloud", config, bus, LinkHooks(on_peer_up=up, on_frames=answer)):
        await anyio.sleep_forever()


class LinkClient:
    """Drives the dialing node."""

    def __init__(self) -> None:
        self.bus = Source()
        self.channel: Channel | None = None
        self.up = anyio.Event()
        self.answered = anyio.Event()
        self.in_events = False

    def on_up(self, _peer: str, channel: Channel) -> None:
        self.channel = channel
        self.up.set()

    def on_frames(self, _peer: str, _frames: list[bytes]) -> None:
        if self.in_events:
            self.bus.acknowledge()
        self.answered.set()

    async def events(self) -> float:
        self.in_events = True
        source = self.bus
        source.acknowledged, source.left, source.allowed = 0, EVENTS_A_ROUND, WINDOW
        began = time.perf_counter()
        source.wake.set()
        while source.acknowledged < EVENTS_A_ROUND:
            self.answered = anyio.Event()
            await self.answered.wait()
        self.in_events = False
        return EVENTS_A_ROUND / (time.perf_counter() - began)

    async def calls(self) -> list[float]:
        times = []
        assert self.channel is not None
        for _ in range(CALLS_A_ROUND):
            began = time.perf_counter()
            self.answered = anyio.Event()
            self.channel.send(CALL)
            await self.answered.wait()
            times.append((time.perf_counter() - began) * 1e6)
        return times


@contextmanager
def child(main: Callable[[], object]) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            main()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


async def drive(root: Path, bare_port: int, link_port: int, rounds: int) -> dict[str, Any]:
    client = LinkClient()
    peers = {"cloud": PeerConfig(address=f"127.0.0.1:{link_port}", site="cloud", send=["test"])}
    bare = BareClient(root, bare_port)
    rates: dict[str, list[float]] = {"bare": [], "link": []}
    times: dict[str, list[list[float]]] = {"bare": [], "link": []}
    hooks = LinkHooks(on_peer_up=client.on_up, on_frames=client.on_frames)
    async with link(root, "edge", LinkConfig(peers=peers), client.bus, hooks):
        await client.up.wait()
        bare.calls()
        await client.calls()  # warm
        for _ in range(rounds):
            rates["bare"].append(bare.events())
            rates["link"].append(await client.events())
            times["bare"].append(bare.calls())
            times["link"].append(await client.calls())
    bare.context.destroy(linger=0)
    return report(rates, times)


def report(rates: dict[str, list[float]], times: dict[str, list[list[float]]]) -> dict[str, Any]:
    medians = {side: [statistics.median(one) for one in rounds] for side, rounds in times.items()}
    cuts = {side: statistics.quantiles([t for one in rounds for t in one], n=100) for side, rounds in times.items()}
    return {
        "rounds": len(rates["bare"]),
        "events_per_s": {side: round(statistics.median(found)) for side, found in rates.items()},
        "events_ratio": round(median_ratio(rates["link"], rates["bare"]), 2),
        "call_p50_us": {side: round(found[49], 1) for side, found in cuts.items()},
        "call_p99_us": {side: round(found[98], 1) for side, found in cuts.items()},
        "call_p50_ratio": round(median_ratio(medians["link"], medians["bare"]), 2),
    }


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(our / their for our, their in zip(ours, theirs, strict=True))


def measure(rounds: int) -> dict[str, Any]:
    bare_port, link_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="spark") as name:
        root = Path(name)
        edge, cloud = KeyStore(root / "edge"), KeyStore(root / "cloud")
        keys = edge.new(), cloud.new()
        edge.trust("cloud", keys[1])
        cloud.trust("edge", keys[0])
        serve: Callable[[], Awaitable[None]] = lambda: link_server(root, link_port)  # noqa: E731 - given to a child
        with child(lambda: bare_server(root, bare_port)), child(lambda: uvloop.run(serve())):  # type: ignore[arg-type]
            return uvloop.run(drive(root, bare_port, link_port, rounds))


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 10), indent=2))
