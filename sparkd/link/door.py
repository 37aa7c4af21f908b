"""The listening side's door: every connection from its acceptance until it has said who it is.

libzmq accepts whoever comes, and tells of it only by events that carry a descriptor. The door keeps the list of those
that are not introduced yet, limits their number (in all and per address, so a flood costs the flooder), hangs up on
those that take too long, and gives each refusal an address and a reason. A connection that is introduced is the
business of its session; the door then only says when it has gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import zmq  # noqa: TID251 - names of connection events

from sparkd.link.wire import hang_up, later, peer_of

MAX_HALF_OPEN = 64
"""Half-open connections at a time; a node has few peers, and each needs one for a few milliseconds."""
MAX_HALF_OPEN_PER_ADDRESS = 16
UNKNOWN = "unknown address"
"""Of a connection that was closed before its address could be asked for."""

_FAILURES: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "does not speak CURVE, or has a wrong key for this node",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "broke off or was silent during the handshake",
}


@dataclass(slots=True)
class _Connection:
    peer: tuple[str, int] | None
    forget: Callable[[], None]
    """Takes back the timer that hangs up on it."""
    introduced: bool = False
    dismissed: bool = False


@dataclass(slots=True)
class Door:
    """Call `on_event` with what the listening socket's monitor says."""

    port: int
    limit_s: float
    """How long a connection may take until it is introduced."""
    refuse: Callable[[str, str], None]
    """Told of each connection that was refused: its address, and why."""
    gone: Callable[[int], None]
    """Told of each introduced connection that has ended: its descriptor."""
    _connections: dict[int, _Connection] = field(default_factory=dict)
    _failed: str = ""
    _denied: bool = False

    @property
    def half_open(self) -> int:
        """How many connections are not introduced."""
        return sum(not c.introduced for c in self._connections.values())

    def on_event(self, kind: int, value: int) -> None:
        """Take one event of the monitor."""
        if kind == zmq.EVENT_ACCEPTED:
            self._accepted(value)
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._denied = True  # the ZAP handler knows who it was, and has said so
        elif kind in _FAILURES:
            self._failed = _FAILURES[kind]  # libzmq closes the connection in the same breath: its event comes next
        elif kind == zmq.EVENT_DISCONNECTED:
            self._ended(value)

    def introduce(self, descriptor: int) -> None:
        """Leave a connection to its session from now on."""
        connection = self._connections.get(descriptor)
        if connection is not None:
            connection.introduced = True
            connection.forget()

    def address(self, descriptor: int) -> str:
        """Return where a connection comes from."""
        connection = self._connections.get(descriptor)
        return (
            UNKNOWN if connection is None or connection.peer is None else f"{connection.peer[0]}:{connection.peer[1]}"
        )

    def dismiss(self, descriptor: int, reason: str, *, in_s: float = 0.0) -> None:
        """Refuse a connection for *reason*: now, or after it had time to read a last message."""
        connection = self._connections.get(descriptor)
        if connection is None or connection.dismissed:
            return
        connection.dismissed = True
        self.refuse(UNKNOWN if connection.peer is None else connection.peer[0], reason)
        self.hang_up(descriptor, in_s=in_s)

    def hang_up(self, descriptor: int, *, in_s: float = 0.0) -> None:
        """End a connection, now or in *in_s*."""
        connection = self._connections.get(descriptor)
        if connection is None or connection.peer is None:
            return
        connection.forget()
        port, peer = self.port, connection.peer
        if in_s:
            connection.forget = later(in_s, lambda: hang_up(descriptor, port, peer))
        else:
            hang_up(descriptor, port, peer)

    def close(self) -> None:
        """Forget every connection: their socket is being closed."""
        for connection in self._connections.values():
            connection.forget()
        self._connections.clear()

    def _accepted(self, descriptor: int) -> None:
        peer = peer_of(descriptor, self.port)
        forget = later(self.limit_s, lambda: self.dismiss(descriptor, "did not say who it is in time"))
        self._connections[descriptor] = _Connection(peer, forget)
        if peer is None:
            return  # gone already; its event follows
        waiting = [c.peer[0] for c in self._connections.values() if c.peer is not None and not c.introduced]
        if len(waiting) > MAX_HALF_OPEN or waiting.count(peer[0]) > MAX_HALF_OPEN_PER_ADDRESS:
            self.dismiss(descriptor, "too many connections that have not said who they are")

    def _ended(self, descriptor: int) -> None:
        connection = self._connections.pop(descriptor, None)
        failed, self._failed = self._failed, ""
        denied, self._denied = self._denied, False
        if connection is None:
            return
        connection.forget()
        if connection.introduced:
            self.gone(descriptor)
        elif not connection.dismissed and not denied:
            address = UNKNOWN if connection.peer is None else connection.peer[0]
            self.refuse(address, failed or "hung up, or did not speak ZMTP, before it said who it is")
