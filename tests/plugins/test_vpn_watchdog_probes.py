"""Probes, path MTU, names and ways: over real sockets on loopback."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd_plugins.vpn_watchdog import netwatch, path_mtu
from sparkd_plugins.vpn_watchdog.names import Names, addresses
from sparkd_plugins.vpn_watchdog.probes import SMALL, Icmp, Probe, Tcp, choose, knock, train
from sparkd_plugins.vpn_watchdog.sockets import has_link, mtu_of
from sparkd_plugins.vpn_watchdog.ways import captive, host_answers, routes, udp_at, way_to

pytestmark = pytest.mark.anyio
PEER = "127.0.0.2"
NOWHERE = "192.0.2.1"


def icmp() -> Probe:
    made = choose("auto", PEER, device="lo", port=9)
    if not isinstance(made, Icmp):
        pytest.skip("neither root nor ping_group_range lets this user send ICMP")
    return made


@pytest.mark.parametrize("size", [SMALL, 85, 1420])
@pytest.mark.parametrize("whole", [True, False])
async def test_an_echo_comes_back(size: int, whole: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert 0 < await icmp().ping(timeout_s=2, size=size, whole=whole) < 2000


async def test_an_echo_of_ipv6_comes_back() -> None:
    made = choose("icmp", "::1", device="lo", port=9)
    if not isinstance(made, Icmp) or not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("no ICMPv6 here")
    try:
        assert await made.ping(timeout_s=2, whole=True) > 0
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")


async def test_a_whole_packet_that_is_too_large_does_not_go() -> None:
    largest = mtu_of("lo")
    assert largest is not None
    largest = min(largest, 65_535)

    with pytest.raises(OSError, match="too long"):
        await icmp().ping(timeout_s=1, size=largest + 64, whole=True)


async def test_a_host_where_nobody_listens_answers_tcp_as_well() -> None:
    probe = Tcp(PEER, "lo", 9)

    assert 0 < await probe.ping(timeout_s=2) < 2000
    assert 0 < await probe.ping(timeout_s=2, size=1000, whole=True) < 2000
    assert probe.label == "tcp 127.0.0.2:9"


async def test_another_s_echo_is_not_taken_for_ours() -> None:
    probe = icmp()
    assert isinstance(probe, Icmp)
    reply = bytes([0, 0]) + bytes(6) + b"nonce-of"
    header = bytes([0x45]) + bytes(19) if probe.kind is socket.SOCK_RAW else b""

    assert probe._answers(header + reply, socket.AF_INET, b"nonce-of")
    assert not probe._answers(header + reply, socket.AF_INET, b"other---")
    assert not probe._answers(b"", socket.AF_INET, b"nonce-of")


async def test_many_at_once_each_get_their_own_answer() -> None:
    assert len(await train(icmp(), count=16, size=1200, timeout_s=3)) == 16


async def test_a_probe_is_three_packets() -> None:
    made = await knock(Tcp(PEER), timeout_s=1, burst=6)

    assert made.answered
    assert len(made.trips_ms) == 3


async def test_one_of_three_that_is_lost_is_counted_and_no_burst_follows() -> None:
    lossy = Lossy(lost=1)
    made = await knock(lossy, timeout_s=0.5, burst=6)

    assert made.trips_ms == [None, 1.0, 1.0]
    assert lossy.sent == 3


async def test_a_burst_follows_a_packet_that_is_lost() -> None:
    lossy = Lossy(lost=3)
    made = await knock(lossy, timeout_s=0.5, burst=6)

    assert made.answered
    assert (lossy.sent, made.trips_ms[0]) == (4, None)  # the first had its time; those under way say nothing
    assert made.trips_ms.count(None) < 3


async def test_when_nothing_is_answered_every_packet_counts() -> None:
    made = await knock(Lossy(lost=99), timeout_s=0.1, burst=4)

    assert not made.answered
    assert made.trips_ms.count(None) >= 4
    assert made.error == "no answer"


class Lossy:
    """A way that loses its first packets."""

    label = "lossy"

    def __init__(self, lost: int) -> None:
        self.lost, self.sent = lost, 0

    async def ping(self, *, timeout_s: float, size: int = SMALL, whole: bool = False) -> float:
        self.sent += 1
        if self.sent <= self.lost:
            await anyio.sleep(timeout_s)
            raise TimeoutError
        return 1.0


@given(st.integers(576, 9000), st.integers(576, 9000))
@settings(max_examples=100, deadline=None)
async def test_the_path_mtu_is_found_within_eight_bytes(path: int, interface: int) -> None:
    asked: list[int] = []

    async def passes(size: int) -> bool:
        asked.append(size)
        return size <= path

    found = await path_mtu.find(passes, most=interface)

    assert found is not None
    assert 0 <= min(path, interface) - found <= path_mtu.EXACT
    assert len(asked) <= 14


async def test_a_way_that_takes_nothing_has_no_mtu() -> None:
    async def never(size: int) -> bool:
        return False

    assert await path_mtu.find(never, most=1420) is None
    assert await path_mtu.find(never, most=500) is None


@asynccontextmanager
async def dns(answer: bytes) -> AsyncIterator[int]:
    """Answer each question with *answer* behind its identity; the first is lost."""
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:

        async def serve() -> None:
            lost = False
            async for packet, who in server:
                if lost:
                    await server.sendto(b"\0\0junk", *who)
                    await server.sendto(packet[:2] + answer, *who)
                lost = True

        tasks.start_soon(serve)
        yield server.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def answer(*addresses4: str, name: bytes = b"\x03hub\x04test\0") -> bytes:
    records = b"".join(
        b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(address) for address in addresses4
    )
    return struct.pack("!HHHHH", 0x8180, 1, len(addresses4), 0, 0) + name + struct.pack("!HH", 1, 1) + records


async def test_one_dns_server_is_asked_again_until_it_answers() -> None:
    async with dns(answer("192.0.2.7", "192.0.2.8")) as port:
        found = await Names("127.0.0.1", port=port).resolve("hub.test:51820")

    assert found == ("192.0.2.7:51820", "192.0.2.8:51820")


async def test_an_address_is_asked_of_nobody_and_a_name_that_nobody_knows_is_nothing() -> None:
    async with dns(answer()) as port:
        names = Names("127.0.0.1", port=port)
        assert await names.resolve("192.0.2.7:51820") == ("192.0.2.7:51820",)
        assert await names.resolve("[2001:db8::1]:5") == ("[2001:db8::1]:5",)
        assert await names.resolve("nobody.test:51820") == ()
    assert await Names().resolve("127.0.0.1:1") == ("127.0.0.1:1",)
    assert await Names().resolve("nobody.invalid:1") == ()


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_answer_of_a_dns_server_is_more_than_garbage(content: bytes) -> None:
    for kind in (1, 28):
        list(addresses(content, kind))
        list(addresses(answer("192.0.2.1") + content, kind))


async def test_a_port_where_nobody_listens_refuses_and_one_that_listens_is_silent() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert await udp_at(f"127.0.0.1:{port}", out="lo") == "silent"
    assert await udp_at(f"127.0.0.1:{port}", out="lo") == "refused"
    assert await udp_at("192.0.2.1:51820", out="no-such-device") == "unreachable"


async def test_a_host_that_is_there_answers() -> None:
    assert await host_answers("127.0.0.1", out="lo")


async def test_the_way_to_an_address_is_that_of_the_kernel() -> None:
    way = await way_to("127.0.0.1")

    assert (way.route, way.out, way.carrier) == (True, "lo", True)
    assert has_link("lo")
    assert not has_link("no-such-device")
    assert mtu_of("no-such-device") is None


def test_routes_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
        "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
        "wg0\t0000080A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
        "*\t0000A0C6\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
        "garbage\n"
    )
    (tmp_path / "ipv6_route").write_text(
        "20010db8000000000000000000000000 20 00000000000000000000000000000000 00 "
        "fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n"
        "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
        "00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
    )

    assert [(str(net), metric, out) for net, metric, out in routes(4, net=tmp_path)] == [
        ("0.0.0.0/0", 100, "eth0"),
        ("0.0.0.0/0", 600, "wlan0"),
        ("10.8.0.0/24", 0, "wg0"),
    ]
    assert [(str(net), metric, out) for net, metric, out in routes(6, net=tmp_path)] == [
        ("2001:db8::/32", 1024, "eth0")
    ]
    assert list(routes(4, net=tmp_path / "missing")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may add an address")
async def test_a_change_of_the_network_is_told_at_once() -> None:
    told = anyio.Event()
    add, remove = (["ip", "addr", word, "127.7.7.7/32", "dev", "lo"] for word in ("add", "del"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(netwatch.follow, told.set)
        await anyio.wait_all_tasks_blocked()
        try:
            await anyio.run_process(add)
            with anyio.fail_after(5):
                await told.wait()
        finally:
            await anyio.run_process(remove)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("said", "caught"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 302 Found\r\nLocation: http://login.test/\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", True),
        (b"\xff\xfe garbage", False),
        (b"", False),
    ],
)
async def test_a_portal_is_one_that_answers_in_another_s_name(said: bytes, caught: bool) -> None:  # noqa: FBT001 - expected
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:

        async def serve(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await stream.receive(1000)
                await stream.send(said)

        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        assert await captive(f"http://127.0.0.1:{port}/generate_204") is caught
        tasks.cancel_scope.cancel()
    assert not await captive(f"http://127.0.0.1:{port}/")  # nobody there is no portal
