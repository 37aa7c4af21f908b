"""Finding the address that the internet knows this home by: ways are asked in turn, the first good answer counts."""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import anyio

from sparkd import DeviceError

from .web_get import get

LIMIT_S = 10.0
"""For one way of asking."""
NAT_PMP_PORT = 5351
NAT_PMP_WAITS_S = (0.25, 0.5, 1.0)
"""RFC 6886, 3.1, though not to the end of its nine tries: another way is next."""
ROUTES = Path("/proc/thread-self/net/route")
_ADDRESSES = {
    "A": re.compile(r"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])"),
    "AAAA": re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Fa-f:])"),
}
SeenBy = Callable[[str], Awaitable[str]]
"""Returns the address that a node of the given name gets our tunnel's packets from. Raises DeviceError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An address, and who told it; or nothing, and why."""

    address: str = ""
    by: str = ""
    refused: tuple[str, ...] = ()
    """What was wrong with the answers before it, one sentence for each."""


async def find(ways: Iterable[str], *, record: str, seen_by: SeenBy) -> Found:
    """Ask each of *ways* (as `PublicNameConfig.ask` has them) until one tells a public address for *record*."""
    refused: list[str] = []
    for way in ways:
        try:
            with anyio.fail_after(LIMIT_S):
                told = await _ask(way, record, seen_by)
            return Found(address=_public(told, record), by=way, refused=tuple(refused))
        except TimeoutError:
            refused.append(f"{way}: no answer within {LIMIT_S:g} s")
        except (DeviceError, OSError, ValueError) as error:
            refused.append(f"{way}: {error}")
    return Found(refused=tuple(refused))


async def _ask(way: str, record: str, seen_by: SeenBy) -> str:
    kind, _, rest = way.partition(":")
    if kind in {"http", "https"}:
        answer = await get(way, limit_s=LIMIT_S)
        if answer.status != 200:  # noqa: PLR2004 - HTTP: OK
            raise DeviceError(f"it answered {answer.status}")
        return only_address(answer.body, record)
    if kind == "peer":
        return await seen_by(rest)
    return await ask_router(rest or gateway())


def only_address(text: str, record: str) -> str:
    """Return the address of the kind of *record* in *text*. ValueError unless there is just one."""
    found = set(_ADDRESSES[record].findall(text))
    if len(found) != 1:
        raise ValueError(f"one address expected in its answer, got {len(found) or 'none'}")
    return str(found.pop())


def _public(text: str, record: str) -> str:
    """Return *text* as an address that others can dial. ValueError with the reason if they cannot."""
    address = ipaddress.ip_address(text)
    if address.version != (4 if record == "A" else 6):
        raise ValueError(f"{address} is no address for a record of type {record}")
    if address in ipaddress.ip_network("100.64.0.0/10"):
        raise ValueError(f"{address} is the provider's own (carrier-grade NAT): nobody can dial this home by IPv4")
    if not address.is_global or address.is_multicast:
        raise ValueError(f"{address} is not a public address")
    return str(address)


def gateway(routes: Path = ROUTES) -> str:
    """Return the default router's IPv4 address. Raises DeviceError if there is none."""
    for line in routes.read_text().splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000" and words[2] != "00000000":  # noqa: PLR2004 - columns
            return socket.inet_ntoa(bytes.fromhex(words[2])[::-1])
    raise DeviceError("there is no default router")


async def ask_router(address: str) -> str:
    """Return the outer address of the router at *address*, by NAT-PMP (RFC 6886, 3.2). Raises DeviceError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
        try:
            asking.connect((address, NAT_PMP_PORT))
            for wait_s in NAT_PMP_WAITS_S:
                asking.send(b"\0\0")
                with anyio.move_on_after(wait_s):
                    while True:
                        await anyio.wait_readable(asking)
                        answer = asking.recv(64)
                        if len(answer) >= 12 and answer[:2] == b"\0\x80":  # noqa: PLR2004 - as long as the RFC has it
                            return _outer(answer)
        except OSError as error:
            raise DeviceError(f"the router {address} does not speak NAT-PMP: {error.strerror}") from None
    raise DeviceError(f"the router {address} does not speak NAT-PMP")


def _outer(answer: bytes) -> str:
    (result,) = struct.unpack_from("!H", answer, 2)
    if result:
        raise DeviceError(f"the router answered with error {result} of NAT-PMP")
    return socket.inet_ntoa(answer[8:12])
