"""Service hosts that run as another user: let in only while one is expected, and good for one thing until known.

Theory of operation. A service that is a systemd unit has a user of its own, so its connection cannot be told from a
stranger's by its uid. It proves itself by the one-time token that only its unit was given. Until then it may send one
message, of a few bytes, within a few seconds; if that is not a hello that is believed, it is cut off. Few may be in
that state at once. From its hello to its end the process, and no other of its user, may also use the bus.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - a timer of the event loop, for a connection that is handled on it
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from sparkd.errors import CallError, CallErrorKind

MAX_HELLO_BYTES = 4096
MAX_UNKNOWN = 8
"""Connections of other users that have not proved who they are; each is gone after `HELLO_LIMIT_S`."""
HELLO_LIMIT_S = 5.0
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int


@dataclass(eq=False, slots=True)
class Guest:
    """A connection of another user."""

    peer: Peer
    timer: asyncio.TimerHandle
    whole: Callable[[bytes], bytes]
    """Puts into a message what it refers to: a guest does not see the node's shared memory."""
    known: bool = False
    """Whether its hello was believed."""


def peer_of(transport: asyncio.Transport) -> Peer | None:
    """Return who is at the other end; None if it is gone."""
    connection = transport.get_extra_info("socket")
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid, uid, _gid = _CREDENTIALS.unpack(packed)
    return Peer(pid, uid)


@dataclass
class Guests:
    """The connections of other users. The defaults let nobody in."""

    expected: set[str] = field(default_factory=set)
    """The services whose hosts run as another user."""
    processes: set[tuple[int, int]] = field(default_factory=set)
    """(uid, pid) of those that are known: who may use the bus reads it."""
    whole: Callable[[bytes], bytes] = lambda body: body
    on_refused: Callable[[Peer], None] = lambda _peer: None
    _attached: dict[int, Guest] = field(default_factory=dict)
    """By the endpoint's identity."""
    _unknown: set[int] = field(default_factory=set)

    def admit(self, peer: Peer, cut_off: Callable[[], None]) -> Guest | None:
        """Take a connection of *peer*, to be ended by *cut_off* if it says nothing; None if it is refused."""
        if not self.expected or len(self._unknown) >= MAX_UNKNOWN:
            self.on_refused(peer)
            return None
        return Guest(peer, asyncio.get_running_loop().call_later(HELLO_LIMIT_S, cut_off), self.whole)

    def attach(self, endpoint: object, guest: Guest) -> None:
        """Know *guest* by its endpoint from now on."""
        self._attached[id(endpoint)] = guest
        self._unknown.add(id(endpoint))

    def check(self, endpoint: object, service: str) -> None:
        """Believe that *endpoint*, whose token was right, is *service*. Raises CallError if it cannot be."""
        guest = self._attached.get(id(endpoint))
        if guest is None:  # of our own user
            return
        if service not in self.expected:
            message = f"{service!r} does not run as user {guest.peer.uid}"
            raise CallError(CallErrorKind.DENIED, message, rule="only a unit's host may be of another user")
        guest.timer.cancel()
        guest.known = True
        self._unknown.discard(id(endpoint))
        self.processes.add((guest.peer.uid, guest.peer.pid))

    def leave(self, endpoint: object) -> None:
        """Forget a connection that is gone; its process may not use the bus any more."""
        self._unknown.discard(id(endpoint))
        guest = self._attached.pop(id(endpoint), None)
        if guest is not None:
            guest.timer.cancel()
            if guest.known:
                self.processes.discard((guest.peer.uid, guest.peer.pid))
