"""Finding one's public address: pages, routers and peers that are real, and answers that must not count."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from sparkd import DeviceError
from sparkd_plugins.vpn_watchdog import public_address
from sparkd_plugins.vpn_watchdog.public_address import Found, ask_router, find, gateway, only_address
from tests.netlab.servers import web

pytestmark = pytest.mark.anyio


async def nobody(node: str) -> str:
    raise DeviceError(f"{node} does not answer")


async def ask(*ways: str, record: str = "A") -> Found:
    return await find(ways, record=record, seen_by=nobody)


def page(text: str, status: int = 200) -> tuple[Any, str]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    return web(listening, lambda _: (status, {}, text)), f"http://127.0.0.1:{listening.getsockname()[1]}/"


async def test_a_page_tells_the_address() -> None:
    serving, url = page('{"ip": "80.1.1.10"}\n')
    with serving:
        assert await ask(url) == Found(address="80.1.1.10", by=url)


async def test_the_first_good_answer_counts_and_the_bad_ones_are_told() -> None:
    (one, private), (two, down), (three, good) = page("192.168.1.7"), page("80.1.1.9", 503), page("80.1.1.10")
    with one, two, three:
        found = await ask(private, "peer:primecore", down, good)

    assert (found.address, found.by) == ("80.1.1.10", good)
    assert found.refused == (
        f"{private}: 192.168.1.7 is not a public address",
        "peer:primecore: primecore does not answer",
        f"{down}: it answered 503",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.3", "not a public"),
        ("100.64.3.4", "carrier-grade NAT"),
        ("127.0.0.1", "not a public"),
        ("0.0.0.0", "not a public"),
        ("224.0.0.1", "not a public"),
        ("169.254.1.1", "not a public"),
        ("999.1.1.1", "does not appear to be"),
        ("", "got none"),
        ("log in to 80.1.1.1 or 80.1.1.2", "got 2"),
        ("version 1.2.3.4.5", "got none"),
        ("2a00::1", "got none"),
    ],
)
async def test_what_nobody_can_dial_does_not_count(text: str, why: str) -> None:
    serving, url = page(text)
    with serving:
        found = await ask(url)

    assert not found.address
    assert why in found.refused[0]


async def test_ipv6_is_found_where_it_is_asked_for() -> None:
    serving, url = page("your address is 2a00:1:2::3.")
    with serving:
        assert (await ask(url, record="AAAA")).address == "2a00:1:2::3"
        assert not (await ask(url)).address


def test_one_address_told_twice_is_one() -> None:
    assert only_address("80.1.1.1 (80.1.1.1)", "A") == "80.1.1.1"


async def test_a_peer_tells_where_it_gets_our_packets_from() -> None:
    async def seen(node: str) -> str:
        return {"primecore": "80.1.1.10"}[node]

    assert (await find(["peer:primecore"], record="A", seen_by=seen)).address == "80.1.1.10"


async def test_who_does_not_answer_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_address, "LIMIT_S", 0.2)
    serving, url = page("80.1.1.10")
    with socket.socket() as silent, serving:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = await ask(f"http://127.0.0.1:{silent.getsockname()[1]}/", url)

    assert found.address == "80.1.1.10"
    assert len(found.refused) == 1


class Router(asyncio.DatagramProtocol):
    """A router that speaks NAT-PMP."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert data == b"\0\0"
        if self._answers and (answer := self._answers.pop(0)):
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def router(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Router(*answers), local_addr=("127.0.0.1", 0))
    monkeypatch.setattr(public_address, "NAT_PMP_PORT", transport.get_extra_info("sockname")[1])
    try:
        yield
    finally:
        transport.close()


def pmp(result: int, address: str) -> bytes:
    return struct.pack("!BBHI", 0, 128, result, 4711) + socket.inet_aton(address)


async def test_a_router_tells_its_outer_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router(monkeypatch, b"", b"\0\x80short", pmp(0, "80.1.1.10")):
        assert (await ask("router:127.0.0.1")).address == "80.1.1.10"


async def test_a_router_that_has_no_address_or_does_not_speak_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router(monkeypatch, pmp(3, "0.0.0.0")):
        with pytest.raises(DeviceError, match="error 3 of NAT-PMP"):
            await ask_router("127.0.0.1")
    with pytest.raises(DeviceError, match="does not speak NAT-PMP"):
        await ask_router("127.0.0.1")


def test_the_default_router_is_found(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
    routes.write_text(head + "eth0\t0008A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
    with pytest.raises(DeviceError, match="no default router"):
        gateway(routes)
    with routes.open("a") as more:
        more.write("eth0\t00000000\t0108A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
    assert gateway(routes) == "192.168.8.1"
