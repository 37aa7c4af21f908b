"""The listening side of the link: one ROUTER socket for all peers that dial.

Every message carries the identity that the ZAP handler gave its connection, and it is looked up again each time: a key
that is revoked stops working with the next message, and its connection is hung up on. The first message must be a
greeting; from then on the connection belongs to a session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import anyio
import zmq  # noqa: TID251 - the link speaks ZeroMQ
from anyio.abc import TaskGroup

from sparkd.errors import RemoteMessageError
from sparkd.link import frames
from sparkd.link.door import Door
from sparkd.link.frames import Greeting, Joining
from sparkd.link.keys import KeyPair
from sparkd.link.options import FAREWELL_MS, Timing, configure
from sparkd.link.session import Session, Transport
from sparkd.link.wire import DESCRIPTOR, USER_ID, LinkSocket
from sparkd.link.zap import DOMAIN


@dataclass(slots=True)
class _Connection:
    """A transport over the shared socket, to one introduced peer."""

    listener: Listener
    routing: bytes
    descriptor: int

    def send(self, message: Sequence[bytes]) -> bool:
        return self.listener.socket.send([self.routing, *message])

    def close(self, reason: str, *, farewell: bool) -> None:  # noqa: ARG002 - the session says the reason
        self.listener.forget(self.routing, self.descriptor, farewell=farewell)


@dataclass(slots=True, kw_only=True)
class Listener:
    """Accepts the peers that dial. `endpoint` is where, while `run` runs."""

    address: str
    context: zmq.Context[zmq.Socket[bytes]]
    keys: KeyPair
    greeting: Greeting
    timing: Timing
    name_of: Callable[[str], str | None]
    """The trusted peer that an identity belongs to."""
    admit: Callable[[str, Greeting], str]
    """Why a peer that greets may not come in, or nothing."""
    open_session: Callable[[str, Greeting, Transport, str], Session]
    """Makes the session of an admitted peer that comes from the given address, and makes it known."""
    guest_of: Callable[[str], str | None]
    """The guest whose invitation an identity belongs to."""
    accept: Callable[[str, str, Joining], Awaitable[str]]
    """Takes the key of a guest, who came with an identity; returns why not, or nothing."""
    refuse: Callable[[str, str], None]
    """Told of each connection that was refused: its address, and why."""
    trouble: Callable[[str], None]
    """Told why it cannot listen, or nothing once it does."""
    endpoint: str = ""
    socket: LinkSocket = field(init=False)
    _door: Door = field(init=False)
    _tasks: TaskGroup = field(init=False)
    _sessions: dict[bytes, Session] = field(default_factory=dict)
    _routing: dict[int, bytes] = field(default_factory=dict)

    async def run(self) -> None:
        """Listen until cancelled. While the address cannot be had, try again."""
        while True:
            async with anyio.create_task_group() as self._tasks:
                try:
                    with self._open():
                        await anyio.sleep_forever()
                except zmq.ZMQError as error:
                    self.trouble(f"cannot listen on {self.address}: {zmq.strerror(error.errno or 0)}")
            await anyio.sleep(self.timing.retry_min_s)

    def forget(self, routing: bytes, descriptor: int, *, farewell: bool) -> None:
        """End a connection whose session is over."""
        self._sessions.pop(routing, None)
        self._routing.pop(descriptor, None)
        self._door.hang_up(descriptor, in_s=FAREWELL_MS / 1000 if farewell else 0.0)

    @contextmanager
    def _open(self) -> Iterator[None]:
        raw = self.context.socket(zmq.ROUTER)
        with LinkSocket(raw, self._on_frames, on_writable=self._on_writable) as self.socket:
            configure(raw, self.timing, max_message_bytes=self.greeting.max_message_bytes)
            raw.router_mandatory = True
            raw.ipv6 = "[" in self.address
            raw.curve_server = True
            raw.curve_publickey, raw.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
            raw.zap_domain = DOMAIN
            raw.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a handler nobody gets in, instead of everybody
            self._door = Door(0, self.timing.handshake_s, self.refuse, self._gone)
            with self.socket.monitored(self._door.on_event):
                raw.bind(self.address if "://" in self.address else f"tcp://{self.address}")
                self.endpoint = bytes(raw.getsockopt(zmq.LAST_ENDPOINT)).decode().removeprefix("tcp://").rstrip("\0")
                self._door.port = int(self.endpoint.rpartition(":")[2])
                self.trouble("")
                try:
                    yield
                finally:
                    self._close()

    def _close(self) -> None:
        farewell = bool(self._sessions)
        for session in list(self._sessions.values()):
            session.end("stopped", farewell="stopping")
        self.endpoint = ""
        self._door.close()
        self.socket.close(farewell=farewell)

    def _on_writable(self) -> None:
        for session in list(self._sessions.values()):
            session.flush()

    def _gone(self, descriptor: int) -> None:
        self.socket.drain()  # its last words may not be read yet
        session = self._sessions.get(self._routing.get(descriptor, b""))
        if session is not None:
            session.end("the connection was lost")

    def _on_frames(self, message: list[zmq.Frame]) -> None:
        routing, identity = message[0].bytes, _property(message[0], USER_ID)
        guest = self.guest_of(identity)
        if guest is not None:
            self._on_joining(guest, identity, message)
            return
        name = self.name_of(identity)
        session = self._sessions.get(routing)
        if name is None or (session is not None and name != session.peer.name):
            self._bar(message[0], session)
        elif session is not None:
            session.on_message([frame.bytes for frame in message[1:]])
        else:
            self._on_greeting(name, routing, message)

    def _bar(self, frame: zmq.Frame, session: Session | None) -> None:
        """End a connection whose key is not trusted, whatever it was when the connection was made."""
        if session is not None:
            session.end("its key is not trusted any more")
        self._door.dismiss(_descriptor(frame), "its key is not trusted any more")

    def _on_joining(self, guest: str, identity: str, message: list[zmq.Frame]) -> None:
        routing, descriptor = message[0].bytes, _descriptor(message[0])
        try:
            joining = frames.decode_join([frame.bytes for frame in message[1:]])
        except RemoteMessageError as error:
            self._turn_away(routing, descriptor, str(error))
        else:
            self._tasks.start_soon(self._take_in, guest, identity, joining, routing, descriptor)

    async def _take_in(self, guest: str, identity: str, joining: Joining, routing: bytes, descriptor: int) -> None:
        """Take a guest's key, and hang up: from now on it comes by that."""
        reason = await self.accept(guest, identity, joining)
        if reason:
            self._turn_away(routing, descriptor, reason)
            return
        with suppress(BrokenPipeError):  # it did not wait; its key is trusted all the same
            self.socket.send([routing, *frames.welcome(self.greeting)])
        self._door.hang_up(descriptor, in_s=FAREWELL_MS / 1000)

    def _on_greeting(self, name: str, routing: bytes, message: list[zmq.Frame]) -> None:
        descriptor = _descriptor(message[0])
        try:
            greeting = frames.decode_hello([frame.bytes for frame in message[1:]])
        except RemoteMessageError as error:
            self._turn_away(routing, descriptor, str(error))
            return
        reason = self.admit(name, greeting)
        if reason:
            self._turn_away(routing, descriptor, reason)
            return
        connection = _Connection(self, routing, descriptor)
        try:
            connection.send(frames.welcome(self.greeting))
        except BrokenPipeError:
            return  # it did not wait for the answer
        self._let_in(name, greeting, connection)

    def _let_in(self, name: str, greeting: Greeting, connection: _Connection) -> None:
        address = self._door.address(connection.descriptor)
        self._door.introduce(connection.descriptor)
        session = self.open_session(name, greeting, connection, address)
        self._sessions[connection.routing] = session
        self._routing[connection.descriptor] = connection.routing
        self._tasks.start_soon(session.run)

    def _turn_away(self, routing: bytes, descriptor: int, reason: str) -> None:
        with suppress(BrokenPipeError):  # gone already
            self.socket.send([routing, *frames.refused(reason)])
        self._door.dismiss(descriptor, reason, in_s=FAREWELL_MS / 1000)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        found = frame.get(name)
    except zmq.ZMQError:  # the connection has no such property
        return ""
    return found if isinstance(found, str) else ""


def _descriptor(frame: zmq.Frame) -> int:
    try:
        return int(_property(frame, DESCRIPTOR))
    except ValueError:
        return -1
