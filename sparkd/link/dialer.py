"""The dialing side of a link: one fresh socket per attempt, and what to do when it fails or ends.

libzmq's own reconnecting is switched off: it never retries after a refused key, does not say why it waits, and would
carry messages over from one connection to the next. So each connection has a socket of its own, which dies with it, and
every wait is here: jittered, bounded, cut short when keys change.
"""

from __future__ import annotations

import random
import socket as sockets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import zmq  # noqa: TID251 - the link speaks ZeroMQ

from sparkd.errors import RemoteMessageError
from sparkd.link import frames
from sparkd.link.complaints import Complaints
from sparkd.link.frames import Greeting
from sparkd.link.keys import AllowList, KeyPair
from sparkd.link.options import Timing, configure
from sparkd.link.peer import Peer
from sparkd.link.session import Session, Transport
from sparkd.link.wire import LinkSocket

_FAILURES: dict[int, tuple[str, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: (
        "the peer does not trust this node's key",
        "on the peer: sparkctl keys trust {node} '{key}'",
    ),
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: (
        "what answers there does not speak the link's protocol",
        "check the address in [link.peers.{peer}]",
    ),
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: (
        "the peer broke off the handshake: its key is not the one trusted here, or it is not a sparkd",
        "compare 'sparkctl keys show' on the peer with keys/trusted/{peer}.public here",
    ),
    zmq.EVENT_CLOSED: ("nothing listens there", "is sparkd running on {peer}, and reachable from here?"),
}


class Failed(Exception):  # noqa: N818 - an outcome of dialing, not a fault of this program
    """An attempt failed, or a connection has ended."""

    def __init__(self, reason: str, remedy: str = "", *, refused: bool = False) -> None:
        """Say why; *refused* means the other side said no, so asking again soon is no use."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.refused = refused


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next attempt: doubling, with jitter, longer if the peer said no."""

    timing: Timing
    _lost: int = 0
    _refused: int = 0
    """Counted apart: a peer that was away for long may well refuse once while it starts."""

    def next_s(self, *, refused: bool) -> float:
        """Return the next wait: almost none at first after a connection that worked, if it was not refused."""
        if refused:
            self._refused += 1
            return self._wait(self._refused, self.timing.retry_refused_max_s)
        self._lost += 1
        if self._lost == 1:
            return self.timing.retry_first_s * random.uniform(0.5, 1.5)
        return self._wait(self._lost, self.timing.retry_max_s)

    def reset(self) -> None:
        """Start over: a connection worked."""
        self._lost = self._refused = 0

    def _wait(self, failures: int, limit_s: float) -> float:
        return min(limit_s, self.timing.retry_min_s * 2.0 ** min(failures - 1, 30)) * random.uniform(0.5, 1.0)


@dataclass(slots=True)
class Connection:
    """One attempt, and the connection it becomes."""

    open_session: Callable[[Greeting, Connection], Session]
    socket: LinkSocket = field(init=False)
    session: Session | None = None
    handshaken: anyio.Event = field(default_factory=anyio.Event)
    answered: anyio.Event = field(default_factory=anyio.Event)
    failure: Failed | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def send(self, message: Sequence[bytes]) -> bool:
        """Give a message to the socket."""
        return self.socket.send(message)

    def close(self, reason: str, *, farewell: bool) -> None:
        """End the connection for *reason*."""
        self.fail(Failed(reason))
        self.socket.close(farewell=farewell)

    def fail(self, failure: Failed) -> None:
        """End the attempt; the first reason given is the reason."""
        self.failure = self.failure or failure
        self.scope.cancel()

    def on_event(self, kind: int, value: int) -> None:  # noqa: ARG002 - what a monitor tells
        """Take an event of the socket's monitor."""
        if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.handshaken.set()
        elif kind in _FAILURES:
            reason, remedy = _FAILURES[kind]
            self.fail(Failed(reason, remedy, refused=kind != zmq.EVENT_CLOSED))
        elif kind == zmq.EVENT_DISCONNECTED:
            self.socket.drain()  # its last words may not be read yet
            self.fail(Failed("the connection was lost", "the network, or a peer that was killed; it is dialed again"))

    def on_frames(self, message: list[zmq.Frame]) -> None:
        """Take a message of the peer."""
        plain = [frame.bytes for frame in message]
        if self.session is not None:
            self.session.on_message(plain)
            return
        try:
            said = frames.decode(plain)
        except RemoteMessageError as error:
            self.fail(
                Failed(f"the peer answered nonsense: {error}", "is it a newer sparkd? update the older", refused=True)
            )
            return
        if isinstance(said, frames.Welcome):
            self._welcomed(said.greeting)
        elif isinstance(said, frames.Refused | frames.Bye):
            self.fail(Failed(f"the peer refused: {said.reason}", refused=True))

    def _welcomed(self, greeting: Greeting) -> None:
        """Open the session before anything else is read: calls may come right behind the greeting."""
        try:
            self.session = self.open_session(greeting, self)
        except Failed as failure:
            self.fail(failure)
        else:
            self.answered.set()

    def on_writable(self) -> None:
        """Send what waited for room."""
        if self.session is not None:
            self.session.flush()


@dataclass(slots=True, kw_only=True)
class Dialer:
    """Keeps the link to one peer that has an address."""

    peer: Peer
    context: zmq.Context[zmq.Socket[bytes]]
    keys: KeyPair
    allowed: Callable[[], AllowList]
    greeting: Greeting
    timing: Timing
    complaints: Complaints
    open_session: Callable[[Peer, Greeting, Transport], Session]
    """Makes the session, and makes it known."""

    async def run(self) -> None:
        """Dial, again and again, until cancelled."""
        backoff = Backoff(self.timing)
        while True:
            if self.peer.connected:  # by the peer's own dialing
                await self.peer.changed()
                continue
            server_key = self.allowed().keys.get(self.peer.name)
            if server_key is None:
                self._explain(Failed(f"no key of {self.peer.name} is trusted here", self._trust_it()))
                await self.peer.changed()
                continue
            failure = await self._attempt(server_key, backoff)
            await self._pause(failure, backoff)

    async def _attempt(self, server_key: str, backoff: Backoff) -> Failed:
        """Connect, and stay until the connection ends; return why it did."""
        connection = Connection(self._begin)
        try:
            with anyio.fail_after(self.timing.handshake_s):
                endpoint = await resolve(self.peer.settings.address)
            with self._open(connection, server_key, endpoint), connection.scope:
                with anyio.fail_after(self.timing.handshake_s):
                    session = await self._introduce(connection)
                backoff.reset()
                try:
                    await session.run()
                finally:
                    session.end(
                        "stopped" if connection.failure is None else connection.failure.reason, farewell="stopping"
                    )
        except TimeoutError:
            return Failed("no answer in time", "is the peer's address right, and reachable from here?")
        except (OSError, zmq.ZMQError) as error:
            return Failed(
                f"{self.peer.settings.address}: {error.strerror or error}", "check the address in [link.peers.{peer}]"
            )
        return connection.failure or Failed("closed")

    async def _introduce(self, connection: Connection) -> Session:
        try:
            await connection.handshaken.wait()
            self.peer.hello_under_way = True
            connection.send(frames.hello(self.greeting))  # a new connection's queue has room
            await connection.answered.wait()
        finally:
            self.peer.hello_under_way = False
        assert connection.session is not None  # noqa: S101 - opened before the event is set
        return connection.session

    def _begin(self, greeting: Greeting, connection: Connection) -> Session:
        name = self.peer.name
        if greeting.node != name:
            raise Failed(f"the node with the key of {name} calls itself {greeting.node[:64]!r}", "trust it by its name")
        if self.peer.connected:
            raise Failed(f"{name} has connected by itself")
        return self.open_session(self.peer, greeting, connection)

    @contextmanager
    def _open(self, connection: Connection, server_key: str, endpoint: str) -> Iterator[None]:
        raw = self.context.socket(zmq.DEALER)
        configure(raw, self.timing, max_message_bytes=self.greeting.max_message_bytes)
        raw.reconnect_ivl = -1
        raw.immediate = True
        raw.ipv6 = "[" in endpoint
        raw.curve_publickey, raw.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
        raw.curve_serverkey = server_key.encode()
        connection.socket = LinkSocket(raw, connection.on_frames, on_writable=connection.on_writable)
        with connection.socket, connection.socket.monitored(connection.on_event):
            raw.connect(endpoint)
            yield

    async def _pause(self, failure: Failed, backoff: Backoff) -> None:
        if not self.peer.connected:
            self._explain(failure)
        with anyio.move_on_after(backoff.next_s(refused=failure.refused)):
            await self.peer.changed()
            backoff.reset()

    def _explain(self, failure: Failed) -> None:
        name, reason = self.peer.name, failure.reason
        remedy = failure.remedy.format(peer=name, node=self.greeting.node, key=self.keys.public)
        self.peer.down(reason, remedy)
        self.complaints.say("link: not connected", culprit=f"{name}: {reason}", peer=name, why=reason, try_=remedy)

    def _trust_it(self) -> str:
        return f"on {self.peer.name}: sparkctl keys show; here: sparkctl keys trust {self.peer.name} KEY"


async def resolve(address: str) -> str:
    """Return *address* (`host:port`) as ZeroMQ writes it, looked up here: libzmq's own look-up blocks its I/O thread.

    Raises OSError if there is no such host.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    found = await anyio.getaddrinfo(host.strip("[]"), port, type=sockets.SOCK_STREAM)
    family, *_, where = found[0]
    return f"tcp://[{where[0]}]:{where[1]}" if family == sockets.AF_INET6 else f"tcp://{where[0]}:{where[1]}"
