"""Who is at the other end of the Unix socket, and what they may do."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum

SO_PEERGROUPS = 59  # Linux >= 4.13, asm-generic/socket.h; the socket module has no name for it
_CREDENTIALS = struct.Struct("iII")
_MAX_GROUPS = 256  # the socket module takes 1024 bytes at the most


class Role(StrEnum):
    """What a peer may do."""

    ADMIN = "admin"  # everything
    READER = "reader"  # methods that change nothing
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected; the kernel vouches for it."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def label(self) -> str:
        """The name it has as a caller."""
        return f"rpc:uid={self.uid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may do what on the socket."""

    uid: int = os.getuid()
    """The daemon's own user."""
    admin_group: str = "sparkd"
    admin_gid: int | None = None
    readers: str = "anyone"
    """`anyone` who can open the socket may read, or only `admins`."""

    def role(self, peer: Peer) -> Role:
        """Return what *peer* may do."""
        if peer.uid in (0, self.uid) or (self.admin_gid is not None and self.admin_gid in peer.groups):
            return Role.ADMIN
        return Role.READER if self.readers == "anyone" else Role.NOBODY

    def rule(self, role: Role) -> str:
        """Return the rule by which someone of *role* is refused."""
        if role is Role.NOBODY:
            return f'[rpc] readers = "{self.readers}": only root, the daemon and group {self.admin_group!r} may call'
        return f"only root, the daemon's user and group {self.admin_group!r} may change things"


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected. Raises OSError if the connection is gone already."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    return Peer(pid, uid, frozenset({gid, *_groups(connection)}))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:  # an older kernel, or a peer in more groups: its primary group still counts
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)
