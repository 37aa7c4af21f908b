"""Who may connect to the bus sockets: the ZAP handler for peers on this machine.

For an `ipc://` peer libzmq tells the handler `localhost:uid:gid:pid` (https://rfc.zeromq.org/spec/27/ has the frames).
The handler is a ROUTER that answers whatever it is asked and never raises: one that dies would bar everybody for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zmq  # noqa: TID251 - this is the bus

from sparkd.bus.sockets import Drained

ADDRESS = "inproc://zeromq.zap.01"
_FRAMES = 8  # routing id, empty, version, request id, domain, address, identity, mechanism


@dataclass(slots=True)
class LocalPeers:
    """Which users may use a socket, by the socket's ZAP domain."""

    uids: dict[str, frozenset[int]]
    gids: dict[str, frozenset[int]] = field(default_factory=dict)
    processes: set[tuple[int, int]] = field(default_factory=set)
    """(uid, pid) of service hosts that run as another user: let in once they have proved which service they are."""
    refused: int = 0
    on_refused: Callable[[str, str], None] = lambda _domain, _address: None

    def admit(self, domain: str, address: str) -> bool:
        """Whether the peer at *address* may use the socket of *domain*; the daemon's own user and root always may."""
        try:
            _, uid, gid, pid = address.split(":")
            known = int(uid) in {0, os.getuid()} | self.uids.get(domain, frozenset())
            known = known or (int(uid), int(pid)) in self.processes
            groups = self.gids.get(domain, frozenset())
            admitted = known or (bool(groups) and (int(gid) in groups or not groups.isdisjoint(_groups(int(pid)))))
        except ValueError:
            admitted = False
        if not admitted:
            self.refused += 1
            self.on_refused(domain, address)
        return admitted


def _groups(pid: int) -> frozenset[int]:
    """Return the supplementary groups of a process: libzmq tells only the first, and members seldom have it as such.

    A peer that is gone has none. Whoever got its pid meanwhile could lend it groups, but not the socket's file mode.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")  # made in memory by the kernel: never waits
    except OSError:
        return frozenset()
    (line,) = (line for line in status.splitlines() if line.startswith("Groups:"))
    return frozenset(map(int, line.split()[1:]))


def serve(context: zmq.Context[zmq.Socket[bytes]], peers: LocalPeers) -> Drained:
    """Return a handler for *context*, to be entered before its sockets are bound."""
    socket = context.socket(zmq.ROUTER)
    socket.bind(ADDRESS)

    def answer(frames: list[bytes]) -> None:
        if len(frames) < _FRAMES:
            return
        routing, _, version, request, domain, address = frames[:6]
        admitted = peers.admit(domain.decode(errors="replace"), address.decode(errors="replace"))
        status = (b"200", b"OK") if admitted else (b"400", b"not a user of this bus")
        socket.send_multipart([routing, b"", version, request, *status, address, b""])
        drained.look_again()

    drained = Drained(socket, answer)
    return drained
