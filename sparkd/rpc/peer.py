"""Who is at the other end of the Unix socket: what the kernel vouches for, and nothing that the peer says."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

SO_PEERGROUPS = 59  # Linux >= 4.13, asm-generic/socket.h; the socket module has no name for it
_CREDENTIALS = struct.Struct("iII")
_GROUP = struct.Struct("I")
_USUAL_BYTES = 1024  # of groups: as much as the socket module's getsockopt takes
_MAX_BYTES = _GROUP.size << 16  # NGROUPS_MAX of Linux


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as it was when it connected. Its pid may be another's by now: it is for people to read only."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]
    """All groups of the process, *gid* among them."""

    @property
    def label(self) -> str:
        """The name it has as a caller."""
        return f"rpc:uid={self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected.

    Raises OSError if the connection is gone already, or if the kernel does not say all groups: a rule that denies a
    group could not be kept then.
    """
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(packed)
    return Peer(pid, uid, gid, frozenset({gid, *_groups(connection)}))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _USUAL_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        packed = _many_groups(connection.fileno())
    return struct.unpack(f"{len(packed) // _GROUP.size}I", packed)


def _many_groups(descriptor: int) -> bytes:
    """Return the groups of a peer that is in more of them than the socket module has room for."""
    room = ctypes.create_string_buffer(_MAX_BYTES)
    size = ctypes.c_uint(_MAX_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(descriptor, socket.SOL_SOCKET, SO_PEERGROUPS, room, ctypes.byref(size)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return room.raw[: size.value]
