"""The connections between the core and its service hosts: one Unix socket, two frames a message.

Not ROUTER and DEALER: libzmq's two threads make the bare round trip between two processes 160 us, a stream socket 45 us
(benchmarks/calls.py), and only the kernel says at once, and surely, that the other process is gone. The manners are
the same: sending never waits, what a peer does not read is bounded per peer, a message is whole or not there.

A message is two lengths, little-endian 32 bits each, then head and body.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from anyio.abc import TaskGroup

from sparkd.calls.endpoint import MAX_FRAME_BYTES, Endpoint
from sparkd.calls.guests import MAX_HELLO_BYTES, Guest, Guests, peer_of
from sparkd.calls.handlers import Handlers
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.payloads import Payloads
from sparkd.calls.router import CallRouter
from sparkd.errors import CallError, CallErrorKind
from sparkd.reference import is_reference

MAX_CONNECTIONS = 256
"""Of hosts. A node has tens of services; a host that reconnects for ever is not one of them."""
MAX_UNREAD_BYTES = 8 << 20
"""What waits for a peer that does not read, before it is told to the sender: two of the largest messages."""
_LENGTHS = struct.Struct("<II")


class Wire(asyncio.Protocol):
    """One connection: bytes to messages and back. It is the `Channel` of its endpoint."""

    def __init__(self, made: Callable[[Wire], Endpoint | None], lost: Callable[[Endpoint], None]) -> None:
        """Get the endpoint from *made*, which may refuse, once connected; tell *lost* when the peer is gone."""
        self._made = made
        self._lost = lost
        self.guest: Guest | None = None
        """What is known of a peer of another user; None for our own."""
        self._endpoint: Endpoint | None = None
        self._chunks: list[bytes] = []
        self._arrived = 0
        self._needed = _LENGTHS.size
        self.transport: asyncio.Transport

    def send(self, frames: list[bytes], /) -> None:
        """Send a message. Raises CallError (`UNAVAILABLE`) if the peer is gone, or has not read for too long."""
        transport = self.transport
        if transport.is_closing():
            raise CallError(CallErrorKind.UNAVAILABLE, "gone")
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            raise CallError(CallErrorKind.UNAVAILABLE, "peer does not read", remedy="see what keeps it busy")
        head, body = frames
        if self.guest is not None:
            body = self.guest.whole(body)
        transport.write(b"".join((_LENGTHS.pack(len(head), len(body)), head, body)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast(asyncio.Transport, transport)
        self._endpoint = self._made(self)
        if self._endpoint is None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what arrived; hand on what is complete."""
        self._chunks.append(data)
        self._arrived += len(data)
        if self._arrived >= self._needed and self._endpoint is not None:
            whole = data if len(self._chunks) == 1 else b"".join(self._chunks)
            rest = whole[self._take(whole, self._endpoint) :]
            self._chunks, self._arrived = [rest] if rest else [], len(rest)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        """Tell that the peer is gone."""
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            self._lost(endpoint)

    def _take(self, arrived: bytes, endpoint: Endpoint) -> int:
        """Hand on the messages that are complete; return how many bytes they had."""
        at, end = 0, len(arrived)
        while end - at >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(arrived, at)
            if max(head, body) > self._most():  # not a peer of ours: there is no next message to find
                endpoint.counts.malformed += 1
                self.transport.abort()
                return end
            first, second = at + _LENGTHS.size, at + _LENGTHS.size + head
            if second + body > end:
                self._needed = second + body - at
                return at
            frames = (arrived[first:second], arrived[second : second + body])
            if self.guest is not None and is_reference(frames[1]):  # to memory that is not its own
                endpoint.counts.malformed += 1
                self.transport.abort()
                return end
            endpoint.feed(frames)
            at = second + body
            if self.guest is not None and not self.guest.known:  # its first word was no hello that is believed
                self.transport.close()
                return end
        self._needed = _LENGTHS.size
        return at

    def _most(self) -> int:
        return MAX_HELLO_BYTES if self.guest is not None and not self.guest.known else MAX_FRAME_BYTES


@asynccontextmanager
async def open_to_hosts(router: CallRouter, path: Path, guests: Guests | None = None) -> AsyncIterator[None]:
    """Let service hosts connect to *router* at *path*; close them at the end.

    Those of this user or root, and of other users the *guests* that are expected.
    """
    wires: set[Wire] = set()
    guests = guests or Guests()

    def made(wire: Wire) -> Endpoint | None:
        peer = peer_of(wire.transport)
        if peer is None or len(wires) >= MAX_CONNECTIONS:
            return None
        if peer.uid not in {0, os.getuid()}:
            wire.guest = guests.admit(peer, wire.transport.abort)
            if wire.guest is None:
                return None
        wires.add(wire)
        endpoint = router.attach("a new host", wire, kind="service")
        if wire.guest is not None:
            guests.attach(endpoint, wire.guest)
        return endpoint

    def new() -> Wire:
        def lost(endpoint: Endpoint) -> None:
            wires.discard(wire)
            guests.leave(endpoint)
            router.detach(endpoint)

        wire = Wire(made, lost)
        return wire

    server = await asyncio.get_running_loop().create_unix_server(new, sock=_listen(path))
    try:
        yield
    finally:
        server.close()
        for wire in list(wires):
            wire.transport.abort()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - one system call, and pathlib's is refused in coroutines


@asynccontextmanager
async def connect_to_core(
    path: Path,
    *,
    handlers: Handlers,
    tasks: TaskGroup,
    payloads: Payloads | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> AsyncIterator[Endpoint]:
    """Connect a service's host to the core at *path*; *handlers* answer what the core passes on.

    Long bodies go by *payloads*.
    Raises OSError if there is no core. When the core is gone the endpoint is closed, and *on_lost* told.
    """
    endpoints: list[Endpoint] = []
    dispatch = handlers.dispatch if payloads is None else payloads.serving(handlers.dispatch)

    def made(wire: Wire) -> Endpoint:
        endpoints.append(
            Endpoint(
                wire,
                accept=lambda end, request, body: IncomingCall(end, request, body, dispatch=dispatch),
                tasks=tasks,
                name="core",
            )
        )
        return endpoints[0]

    def lost(endpoint: Endpoint) -> None:
        endpoint.close()
        on_lost()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_unix_connection(lambda: Wire(made, lost), str(path))
    try:
        yield endpoints[0]
    finally:
        endpoints[0].close("this host is stopping")
        transport.close()


def _listen(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):  # of a core that was killed: the lock on core.pid says it is gone
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)  # nobody can connect before it listens
        listener.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
    except OSError:
        listener.close()
        raise
    return listener
