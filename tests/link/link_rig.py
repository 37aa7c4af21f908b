"""What the link's tests stand on: nodes with a real broker, real key files and real sockets, in one process."""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import zmq
from anyio.abc import SocketStream

from sparkd.bus import Broker, BusClient, BusLimits
from sparkd.codec import Message, pack
from sparkd.config import LinkConfig, PeerConfig
from sparkd.core_interfaces import LinkStatus
from sparkd.events import LinkChanged
from sparkd.link import Channel, Identity, KeyStore, Link, LinkHooks, Timing
from sparkd.link.frames import PROTOCOL
from sparkd.shm import make_root

QUICK = Timing(heartbeat_s=0.2, handshake_s=1.0, retry_first_s=0.02, retry_min_s=0.05, retry_max_s=0.2)
"""Times for loopback. A refusal is still waited out for up to a minute: no test may pass by its retry."""


class Happenings:
    """Wakes whoever waits for a condition whenever something happens."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def tell(self, *_anything: object, **_more: object) -> None:
        self._event.set()
        self._event = anyio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._event.wait()


@dataclass
class LoggedLines:
    """A log that keeps what it is told."""

    happenings: Happenings
    lines: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        self._add("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._add("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._add("warning", event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        self._add("error", event, fields)

    def _add(self, level: str, event: str, fields: dict[str, object]) -> None:
        self.lines.append((level, event, fields))
        self.happenings.tell()

    def about(self, event: str) -> list[dict[str, object]]:
        return [fields for _, name, fields in self.lines if name == event]


@dataclass
class LinkNode:
    """One node: its keys, its config, and, while `running`, its bus and its link."""

    name: str
    root: Path
    site: str = "home"
    listen: str = ""
    max_message_bytes: int = 1 << 20
    peers: dict[str, PeerConfig] = field(default_factory=dict)
    timing: Timing = QUICK
    happenings: Happenings = field(default_factory=Happenings)
    channels: dict[str, Channel] = field(default_factory=dict)
    calls: list[tuple[str, list[bytes]]] = field(default_factory=list)
    changes: list[LinkChanged] = field(default_factory=list)
    retained: list[Message] = field(default_factory=list)
    bus: BusClient = field(init=False)
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        self.keys = KeyStore(self.root / self.name / "keys")
        self.key = self.keys.new()
        self.log = LoggedLines(self.happenings)
        self.hooks = LinkHooks(
            on_peer_up=self.note_up,
            on_peer_down=self.note_down,
            on_frames=self._frames,
            retained=lambda _topics: self.retained,
            on_change=self.changes.append,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LinkNode]:
        runtime = self.root / self.name / secrets.token_hex(2)
        runtime.mkdir()
        config = LinkConfig(
            listen=self.listen, max_message_bytes=self.max_message_bytes, heartbeat_s=0.2, peers=self.peers
        )
        make_root(runtime)
        client = BusClient(runtime, node=self.name, service="core", limits=BusLimits(shm_max_bytes=16 << 20))
        async with Broker(runtime).open(), client.open() as self.bus, self._link(config) as self.link:
            yield self

    def _link(self, config: LinkConfig) -> Link:
        return Link(
            config,
            keys_dir=self.keys.folder,
            identity=Identity(name=self.name, node_id="0" * 32, site=self.site, role="edge", version="test"),
            bus=self.bus,
            hooks=self.hooks,
            log=self.log,
            timing=self.timing,
        )

    def note_up(self, peer: str, channel: Channel) -> None:
        self.channels[peer] = channel
        self.happenings.tell()

    def note_down(self, peer: str, reason: str) -> None:
        del self.channels[peer]
        self.happenings.tell()

    def _frames(self, peer: str, frames: list[bytes]) -> None:
        self.calls.append((peer, frames))
        self.happenings.tell()

    def status(self, peer: str) -> LinkStatus:
        return next(status for status in self.link.status() if status.peer == peer)

    async def listening(self) -> str:
        await self.happenings.until(lambda: self.link.listening)
        return self.link.listening

    async def up(self, peer: str) -> None:
        await self.happenings.until(lambda: peer in self.channels)

    async def down(self, peer: str) -> None:
        await self.happenings.until(lambda: peer not in self.channels)

    async def forwarding(self, peer: str) -> None:
        """Wait until events of this node pass to *peer*."""
        await self.until(lambda: any(f["peer"] == peer for f in self.log.about("link: events pass")))

    async def until(self, condition: Callable[[], object]) -> None:
        await self.happenings.until(condition)


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@dataclass(frozen=True)
class Both:
    """An edge node that dials, and a cloud node that listens; they trust each other."""

    edge: LinkNode
    cloud: LinkNode

    @asynccontextmanager
    async def linked(self) -> AsyncIterator[Both]:
        async with self.cloud.running(), self.edge.running():
            await self.edge.up("cloud")
            await self.cloud.up("edge")
            await self.edge.forwarding("cloud")
            await self.cloud.forwarding("edge")
            yield self


def trust_each_other(*nodes: LinkNode) -> None:
    for one in nodes:
        for other in nodes:
            if one is not other:
                one.keys.trust(other.name, other.key)


def edge_and_cloud(root: Path, *, trusting: bool = True, same_site: bool = False) -> Both:
    address = free_address()
    site = "home" if same_site else "dc"
    edge = LinkNode("edge", root)
    edge.peers["cloud"] = PeerConfig(
        address=address, site=site, send=["test"], receive=["models"], calls=["node.status", "vision.*"]
    )
    cloud = LinkNode("cloud", root, site=site, listen=address)
    cloud.peers["edge"] = PeerConfig(site="home", send=["models"], receive=["test"], calls=["ingest.append"])
    if trusting:
        trust_each_other(edge, cloud)
    return Both(edge, cloud)


@contextmanager
def attacking_as(node: LinkNode, address: str, server: LinkNode) -> Iterator[Attacker]:
    """Connect to *server* with the true key of *node*."""
    keys = node.keys.load()
    with attacker(address, public=keys.public, secret=keys.secret, server=server.key) as opened:
        yield opened


async def welcomed(intruder: Attacker, name: str, **changes: Any) -> None:
    """Say hello as *name*, and wait for the welcome."""
    intruder.send(b"H", greeting_of(name, **changes))
    assert (await intruder.receive())[0] == b"W"


def greeting_of(name: str, **changes: Any) -> bytes:
    """Return a hello's second frame."""
    fields = {"version": PROTOCOL, "node": name, "node_id": "f" * 32, "site": "home", "role": "edge", "sparkd": "0"}
    fields |= {"instance": secrets.token_hex(4), "max_message_bytes": 1 << 20}
    return pack(list((fields | changes).values()))


class Wire:
    """The network between two nodes: connections to `address` end where they should, as long as it is not cut."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._whole = anyio.Event()
        self._whole.set()
        self.address = ""

    def cut(self) -> None:
        """Let nothing pass any more; both ends stay connected."""
        self._whole = anyio.Event()

    def mend(self) -> None:
        """Let everything pass again."""
        self._whole.set()

    async def carry(self, near: SocketStream) -> None:
        async with near, await anyio.connect_tcp(self._host, self._port) as far, anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, near, far)
            tasks.start_soon(self._copy, far, near)

    async def _copy(self, source: SocketStream, target: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for piece in source:
                await self._whole.wait()
                await target.send(piece)
            await target.aclose()


@asynccontextmanager
async def wire_to(target: str) -> AsyncIterator[Wire]:
    wire = Wire(target)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        wire.address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.start_soon(listener.serve, wire.carry)
        yield wire
        tasks.cancel_scope.cancel()


class Attacker:
    """A DEALER of plain pyzmq, with whatever key it likes."""

    def __init__(self, address: str, *, public: str = "", secret: str = "", server: str = "") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.reconnect_ivl = -1
        if server:
            self._socket.curve_publickey = public.encode()
            self._socket.curve_secretkey = secret.encode()
            self._socket.curve_serverkey = server.encode()
        endpoint = f"inproc://attacker-{id(self)}"
        self._socket.monitor(endpoint, zmq.EVENT_ALL)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.rcvhwm = 0
        self._monitor.connect(endpoint)
        self._socket.connect(f"tcp://{address}")

    def close(self) -> None:
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    async def receive(self, *, but: bytes = b"P") -> list[bytes]:
        """Return the next message, leaving out those of kind *but*: pings."""

        def wait() -> list[bytes]:
            while self._socket.poll(5000):
                message = self._socket.recv_multipart()
                if message[0] != but:
                    return message
            raise AssertionError("no answer")

        return await anyio.to_thread.run_sync(wait)

    async def event(self, *kinds: int) -> int:
        """Wait until one of *kinds* happens to the connection, and return it."""

        def wait() -> int:
            while self._monitor.poll(5000):
                kind, _ = struct.unpack("=hi", self._monitor.recv_multipart()[0])
                if kind in kinds:
                    return int(kind)
            raise AssertionError("nothing happened")

        return await anyio.to_thread.run_sync(wait)


@contextmanager
def attacker(address: str, *, public: str = "", secret: str = "", server: str = "") -> Iterator[Attacker]:
    """Attack *address*: with a key pair and the server's key, or without CURVE at all."""
    opened = Attacker(address, public=public, secret=secret, server=server)
    try:
        yield opened
    finally:
        opened.close()
