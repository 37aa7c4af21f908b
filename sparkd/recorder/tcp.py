"""What processes have sent over TCP, as the kernel counts it for each connection (netlink sock_diag, no privileges).

Only connections to other machines count. A connection is seen when the kernel is asked: one that opens and closes
between two questions is not seen, and what a connection sends after the last question before its end is not counted.
So the figure is a lower bound, close for connections that last. UDP has no such count.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_SOCK_DIAG, _NLM_REQUEST_DUMP, _BY_FAMILY, _DONE, _ERROR = 4, 0x301, 20, 3, 2
_INFO_EXTENSION, _INFO_ATTRIBUTE = 1 << 1, 2
_OPEN_STATES = 0xFFFFFFFF & ~(1 << 10)
"""All but those that listen."""
_REQUEST = struct.Struct("=IHHII BBBxI 48x")
_HEADER = struct.Struct("=IHHII")
_ADDRESSES = struct.Struct("=4xHH16s16s")
"""Of `inet_diag_msg`: state and so on, ports, source and destination."""
_INODE_AT, _MESSAGE_BYTES = 68, 72
_ACKED_AT = 120
"""Of `tcp_info.tcpi_bytes_acked`; Linux 4.1."""
_REPLY_BYTES = 1 << 16
_LIMIT_S = 0.5
_FAMILY_AT = 0


def acknowledged(*, also_here: bool = False) -> dict[int, int]:
    """Return the bytes acknowledged by other machines on each TCP connection, by the inode of its socket.

    *also_here* takes connections within this machine too. Raises OSError if the kernel does not answer such questions.
    """
    found: dict[int, int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as asking:
        asking.settimeout(_LIMIT_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            asking.send(
                _REQUEST.pack(72, _BY_FAMILY, _NLM_REQUEST_DUMP, 1, 0, family, 6, _INFO_EXTENSION, _OPEN_STATES)
            )
            for message in _replies(asking):
                inode, there, count = _connection(message)
                if also_here or not _stays(there):
                    found[inode] = count
    return found


def sockets_of(pids: Iterable[int]) -> dict[int, int]:
    """Return which of *pids* holds a socket, by the socket's inode; the first, if several do."""
    found: dict[int, int] = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)  # noqa: PTH208 - plain names, often
        except OSError:  # gone, or of another user
            continue
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - often
            except OSError:
                continue
            if target.startswith("socket:["):
                found.setdefault(int(target[8:-1]), pid)
    return found


def _replies(asking: socket.socket) -> Iterator[bytes]:
    while True:
        held = asking.recv(_REPLY_BYTES)
        while len(held) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(held)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", held, _HEADER.size)[0], "the kernel does not count TCP")
            yield held[_HEADER.size : length]
            held = held[(length + 3) & ~3 :]


def _connection(message: bytes) -> tuple[int, bytes, int]:
    """Return inode, destination and bytes acknowledged."""
    _, _, _, destination = _ADDRESSES.unpack_from(message)
    packed = destination[:4] if message[_FAMILY_AT] == socket.AF_INET else destination
    inode = struct.unpack_from("=I", message, _INODE_AT)[0]
    at = _MESSAGE_BYTES
    while at + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == _INFO_ATTRIBUTE and length >= 4 + _ACKED_AT + 8:
            return inode, packed, int(struct.unpack_from("=Q", message, at + 4 + _ACKED_AT)[0])
        at += max((length + 3) & ~3, 4)
    return inode, packed, 0


def _stays(packed: bytes) -> bool:
    """Whether what goes to this address stays on the machine."""
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
