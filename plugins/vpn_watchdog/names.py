"""What an endpoint's name stands for: asked of the system, or of one DNS server, past any cache and any tunnel."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import anyio

from .sockets import family_of
from .wg import join_endpoint, split_endpoint

LIMIT_S = 4.0
AGAIN_S = 1.0
DNS_PORT = 53
_A, _AAAA, _IN = 1, 28, 1
MAX_ANSWERS = 32


class Names:
    """Resolves endpoints."""

    def __init__(self, resolver: str = "", *, port: int = DNS_PORT) -> None:
        """Ask *resolver*, a DNS server's address, or the system if it is empty."""
        self._resolver, self._port = resolver, port

    async def resolve(self, endpoint: str) -> tuple[str, ...]:
        """Return what `host:port` stands for, as endpoints; nothing if nobody could say within 4 s."""
        host, port = split_endpoint(endpoint)
        addresses: tuple[str, ...] = ()
        with anyio.move_on_after(LIMIT_S):
            try:
                addresses = await (self._asked(host) if self._resolver else _of_system(host))
            except (OSError, UnicodeError):
                return ()
        return tuple(join_endpoint(address, port) for address in addresses)

    async def _asked(self, host: str) -> tuple[str, ...]:
        if _literal(host):
            return (host,)
        for kind in (_A, _AAAA):
            if found := await self._query(host, kind):
                return found
        return ()

    async def _query(self, host: str, kind: int) -> tuple[str, ...]:
        question = _question(host, kind)
        with socket.socket(family_of(self._resolver), socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
            asking.connect((self._resolver, self._port))
            while True:
                ident = os.urandom(2)
                asking.send(ident + question)
                with anyio.move_on_after(AGAIN_S):
                    while True:
                        await anyio.wait_readable(asking)
                        answer = asking.recv(4096)
                        if answer[:2] == ident and answer[2:3] > b"\x7f":
                            return tuple(addresses(answer, kind))


async def _of_system(host: str) -> tuple[str, ...]:
    found = await anyio.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _literal(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _question(host: str, kind: int) -> bytes:
    """Return a query (RFC 1035) without its identity."""
    labels = host.rstrip(".").encode("idna").split(b".")
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, _IN)


def addresses(answer: bytes, kind: int) -> Iterator[str]:
    """Give the addresses of *kind* in a DNS answer; garbage gives what stands before it."""
    family, size = (socket.AF_INET, 4) if kind == _A else (socket.AF_INET6, 16)
    try:
        _, _, questions, answers, _, _ = struct.unpack_from("!HHHHHH", answer)
        place = 12
        for _ in range(min(questions, MAX_ANSWERS)):
            place = _after_name(answer, place) + 4
        for _ in range(min(answers, MAX_ANSWERS)):
            place = _after_name(answer, place)
            found, _, _, length = struct.unpack_from("!HHIH", answer, place)
            place += 10
            if found == kind and length == size and place + size <= len(answer):
                yield socket.inet_ntop(family, answer[place : place + size])
            place += length
    except (struct.error, IndexError):
        return


def _after_name(answer: bytes, place: int) -> int:
    """Return the place behind the name at *place*; a pointer ends it, and is not followed."""
    while (length := answer[place]) != 0:
        if length >= 0xC0:  # noqa: PLR2004 - RFC 1035, 4.1.4
            return place + 2
        place += 1 + length
    return place + 1
