"""Probes: a packet to a peer's address in the tunnel, and how long its answer takes. Without root where that goes.

ICMP echo needs the kernel's leave: the sysctl `net.ipv4.ping_group_range`, which systemd opens to everybody on newer
systems, or CAP_NET_RAW. Where neither is there, a TCP connection is tried: that a host is answered "nobody listens"
by proves the way as well. Both are tied to the tunnel's interface, so that no other way can answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal, Protocol

import anyio

from .sockets import bind_to, family_of, keep_whole

SMALL = 84
"""Bytes of an IP packet: what `ping` sends."""
GAP_S = 0.15
FIRST = 3
"""Packets of a probe: what is lost on the way is known the sooner."""
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}
"""Types of request and reply (RFC 792, RFC 4443)."""
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_HEADERS = {socket.AF_INET: 28, socket.AF_INET6: 48}
"""Bytes of IP and of ICMP, or of UDP, which has as many."""


class Probe(Protocol):
    """A way to knock at an address."""

    @property
    def label(self) -> str:
        """What it is, for people."""
        ...

    async def ping(self, *, timeout_s: float, size: int = SMALL, whole: bool = False) -> float:
        """Return the round trip of one packet of *size* bytes, in ms; *whole*: it must not be cut into fragments.

        Raises OSError: TimeoutError if nothing came back, others if it could not go.
        """
        ...


@dataclass(frozen=True, slots=True)
class Icmp:
    """Echo requests, each by a socket of its own, so that no answer can be taken for another's."""

    address: str
    device: str = ""
    kind: socket.SocketKind = socket.SOCK_DGRAM
    """`SOCK_DGRAM`, or `SOCK_RAW` with CAP_NET_RAW."""

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"icmp {self.address}"

    async def ping(self, *, timeout_s: float, size: int = SMALL, whole: bool = False) -> float:
        """Return the round trip of one packet in ms. Raises OSError."""
        family = family_of(self.address)
        with socket.socket(family, self.kind, _PROTOCOL[family]) as sender:
            sender.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
            bind_to(sender, self.device)
            if whole:
                keep_whole(sender)
            sender.connect((self.address, 0))
            nonce = os.urandom(8)
            begun = anyio.current_time()
            sender.send(_echo(family, nonce, size))
            with anyio.fail_after(timeout_s):
                while not self._answers(await _received(sender), family, nonce):
                    pass
            return (anyio.current_time() - begun) * 1000

    def _answers(self, packet: bytes, family: socket.AddressFamily, nonce: bytes) -> bool:
        if self.kind is socket.SOCK_RAW and family == socket.AF_INET and packet:
            packet = packet[(packet[0] & 15) * 4 :]
        return packet[:1] == bytes([_ECHO[family][1]]) and packet[8:16] == nonce


def _echo(family: socket.AddressFamily, nonce: bytes, size: int) -> bytes:
    content = nonce + bytes(max(size - _HEADERS[family] - len(nonce), 0))
    header = struct.pack("!BBH4s", _ECHO[family][0], 0, 0, os.urandom(4))
    packet = header + content
    total = sum(struct.unpack(f"!{(len(packet) + 1) // 2}H", packet + bytes(len(packet) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:2] + struct.pack("!H", ~total & 0xFFFF) + header[4:] + content


async def _received(sender: socket.socket) -> bytes:
    while True:
        await anyio.wait_readable(sender)
        try:
            return sender.recv(65_536)
        except BlockingIOError:
            continue


@dataclass(frozen=True, slots=True)
class Tcp:
    """Connections that are tried, and closed at once. Whole packets of a size go by UDP to the same port."""

    address: str
    device: str = ""
    port: int = 9

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"tcp {self.address}:{self.port}"

    async def ping(self, *, timeout_s: float, size: int = SMALL, whole: bool = False) -> float:
        """Return how long it took until somebody said yes or no, in ms. Raises OSError."""
        kind = socket.SOCK_DGRAM if whole else socket.SOCK_STREAM
        with socket.socket(family_of(self.address), kind) as sender:
            sender.setblocking(False)  # noqa: FBT003 - as above
            bind_to(sender, self.device)
            begun = anyio.current_time()
            with anyio.fail_after(timeout_s):
                await (self._large(sender, size) if whole else self._connect(sender))
            return (anyio.current_time() - begun) * 1000

    async def _connect(self, sender: socket.socket) -> None:
        number = sender.connect_ex((self.address, self.port))
        if number == errno.EINPROGRESS:
            await anyio.wait_writable(sender)
            number = sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number not in (0, errno.ECONNREFUSED):
            raise OSError(number, os.strerror(number))

    async def _large(self, sender: socket.socket, size: int) -> None:
        keep_whole(sender)
        sender.connect((self.address, self.port))
        sender.send(bytes(max(size - _HEADERS[sender.family], 0)))
        try:
            await _received(sender)
        except ConnectionRefusedError:
            return


def choose(mode: Literal["auto", "icmp", "tcp"], address: str, *, device: str, port: int) -> Probe:
    """Return the probe of *mode* for *address*; `icmp` where it may not is TCP too, for no probe would be blind."""
    if mode != "tcp":
        family = family_of(address)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket(family, kind, _PROTOCOL[family]).close()
            except OSError:
                continue
            return Icmp(address, device, kind)
    return Tcp(address, device, port)


@dataclass(slots=True)
class Round:
    """What became of one probe: three packets, and a burst of more if none was answered in time."""

    trips_ms: list[float | None] = field(default_factory=list)
    """Each packet that had its time: its round trip, None if it was lost."""
    error: str = ""

    @property
    def answered(self) -> bool:
        """Whether any packet was answered."""
        return any(trip is not None for trip in self.trips_ms)


async def knock(probe: Probe, *, timeout_s: float, burst: int) -> Round:
    """Send three packets; if no answer comes within *timeout_s*, up to *burst* more, of which one answer is enough."""
    end = anyio.current_time() + timeout_s + burst * GAP_S + timeout_s
    sent: dict[int, float] = {}
    trips: dict[int, float] = {}
    made = Round()

    async def one(number: int) -> None:
        late = number >= FIRST
        await anyio.sleep(timeout_s + (number - FIRST) * GAP_S if late else number * GAP_S)
        if late and trips:
            return
        sent[number] = anyio.current_time()
        try:
            trips[number] = await probe.ping(timeout_s=max(end - sent[number], 0.01))
        except OSError as error:
            made.error = error.strerror or "no answer"
        if number in trips and (late or len(trips) == FIRST):
            tasks.cancel_scope.cancel()

    async def close() -> None:
        await anyio.sleep(timeout_s + (FIRST - 1) * GAP_S)
        if trips:  # each of the first had its time
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        for number in range(FIRST + burst):
            tasks.start_soon(one, number)
    now = anyio.current_time()
    made.trips_ms = [trips.get(n) for n, at in sorted(sent.items()) if n in trips or now - at >= timeout_s * 0.99]
    return made


async def train(probe: Probe, *, count: int, size: int, timeout_s: float) -> list[float]:
    """Send *count* packets of *size* at once; return when each answer came, in seconds."""
    arrivals: list[float] = []

    async def one() -> None:
        try:
            await probe.ping(timeout_s=timeout_s, size=size)
        except OSError:
            return
        arrivals.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    return arrivals
