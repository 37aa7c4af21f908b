"""What is found out about the way to an endpoint, outside the tunnel: route, link, portal, and what answers there."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from .diagnosis import Udp
from .probes import Icmp, Probe, Tcp, choose
from .sockets import bind_to, family_of, has_link
from .wg import split_endpoint

NET = Path("/proc/thread-self/net")
RTF_UP = 0x1
RTF_REJECT = 0x200
UDP_TRIES = 3
UDP_GAP_S = 0.4
HOST_LIMIT_S = 1.2
PORTAL_LIMIT_S = 3.0
OPEN = 204
"""What a test address answers where nobody is in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How packets leave for an address."""

    route: bool
    out: str = ""
    carrier: bool = False


async def way_to(address: str, *, not_by: tuple[str, ...] = ()) -> Way:
    """Return how packets leave for *address* by the main table, which the tunnels in *not_by* do not count in."""
    return await anyio.to_thread.run_sync(_way_to, address, not_by)


def _way_to(address: str, not_by: tuple[str, ...]) -> Way:
    wanted = ipaddress.ip_address(address)
    if wanted.is_loopback:
        return Way(route=True, out="lo", carrier=True)
    found = [(-net.prefixlen, metric, out) for net, metric, out in routes(wanted.version) if wanted in net]
    ways = [Way(route=True, out=out, carrier=has_link(out)) for _, _, out in sorted(found) if out not in not_by]
    return next((way for way in ways if way.carrier), ways[0] if ways else Way(route=False))


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def routes(version: int, *, net: Path = NET) -> Iterator[tuple[Network, int, str]]:
    """Give network, metric and interface of each route of the main table."""
    with suppress(OSError):
        lines = (net / ("route" if version == 4 else "ipv6_route")).read_text().splitlines()  # noqa: PLR2004 - of IP
        for line in lines:
            with suppress(ValueError, IndexError):
                route = _route4(line.split()) if version == 4 else _route6(line.split())  # noqa: PLR2004 - of IP
                if route is not None:
                    yield route


def _route4(words: list[str]) -> tuple[Network, int, str] | None:
    flags = int(words[3], 16)
    if not flags & RTF_UP or flags & RTF_REJECT:
        return None
    begin, mask = (bytes.fromhex(words[n])[::-1] for n in (1, 7))
    network = ipaddress.ip_network((begin, ipaddress.IPv4Network(f"0.0.0.0/{ipaddress.IPv4Address(mask)}").prefixlen))
    return network, int(words[6]), words[0]


def _route6(words: list[str]) -> tuple[Network, int, str] | None:
    flags = int(words[8], 16)
    if not flags & RTF_UP or flags & RTF_REJECT or words[9] == "lo":
        return None
    return ipaddress.ip_network((bytes.fromhex(words[0]), int(words[1], 16))), int(words[5], 16), words[9]


async def udp_at(endpoint: str, *, out: str) -> Udp:
    """Return what becomes of a byte sent to *endpoint*. WireGuard drops it in silence; a host without it refuses."""
    address, port = split_endpoint(endpoint)
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
        try:
            bind_to(sender, out)
            sender.connect((address, port))
            for _ in range(UDP_TRIES):
                sender.send(b"\0")
                with anyio.move_on_after(UDP_GAP_S):
                    await anyio.wait_readable(sender)
                    sender.recv(1)
        except ConnectionRefusedError:
            return "refused"
        except PermissionError:
            return "denied"
        except OSError:
            return "unreachable"
    return "silent"


async def host_answers(address: str, *, out: str) -> bool:
    """Whether a host answers an echo request, or a try to connect, be it with a no."""
    ways: list[Probe] = [Tcp(address, out, 443)]
    echo = choose("auto", address, device=out, port=443)
    if isinstance(echo, Icmp):
        ways.append(echo)
    found = False

    async def one(probe: Probe) -> None:
        nonlocal found
        for _ in range(2):
            with suppress(OSError):
                await probe.ping(timeout_s=HOST_LIMIT_S / 2)
                found = True
                tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for probe in ways:
            tasks.start_soon(one, probe)
    return found


async def captive(url: str) -> bool:
    """Whether *url*, which answers 204 where the internet is open, is answered otherwise. No answer is no portal."""
    parts = urlsplit(url)
    request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    with anyio.move_on_after(PORTAL_LIMIT_S), suppress(OSError, ValueError, anyio.EndOfStream, UnicodeError):
        async with await anyio.connect_tcp(parts.hostname or "", parts.port or 80) as stream:
            await stream.send(request.encode())
            words = (await stream.receive(1024)).split(None, 2)
            return len(words) > 1 and words[0].startswith(b"HTTP/") and int(words[1]) != OPEN
    return False
