"""The rig itself: tunnels that are real, and faults that do what they say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.netlab.ends import PORT
from tests.netlab.lab import HOME, MOVED, TUNNEL, WEB, Lab, lab
from tests.netlab.spaces import NETNS, RESOLVERS, WIREGUARD, Space, eventually, sweep

HUB, SPOKE1, SPOKE2 = TUNNEL.values()


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab() as made:
        yield made


def lost(space: Space, address: str, count: int, *, limit_s: float = 0.25) -> int:
    """Return how many of so many pings are not answered."""
    return sum(space.ping(address, limit_s=limit_s) is None for _ in range(count))


def test_all_reach_each_other_through_tunnels_and_nat(net: Lab) -> None:
    for here, there in ((net.spoke1, HUB), (net.spoke2, HUB), (net.hub, SPOKE1), (net.hub, SPOKE2)):
        here.reaches(there)
    net.spoke1.reaches(SPOKE2)

    endpoints = net.ends["hub"].show("endpoints")
    assert "80.2.2.10:20" in endpoints, "spoke1 is seen as its NAT"
    assert f"80.3.3.10:{PORT}" in endpoints
    assert net.spoke1.ping("192.168.8.10", limit_s=0.3) is None, "a home network is not on the internet"
    assert net.ends["spoke1"].show("endpoints").endswith(f"{HOME}:{PORT}")


def test_a_cable_that_is_out_takes_the_carrier(net: Lab) -> None:
    net.cut("spoke1")
    try:
        eventually(lambda: "NO-CARRIER" in net.spoke1.run(["ip", "link", "show", "eth0"]))
        assert lost(net.spoke1, HUB, 3) == 3
    finally:
        net.mend("spoke1")
    net.spoke1.reaches(HUB)


def test_a_peer_that_is_killed_and_restarted_has_the_same_key_and_no_session(net: Lab) -> None:
    key = net.ends["spoke2"].show("public-key")
    net.kill("spoke2")
    assert lost(net.hub, SPOKE2, 2) == 2
    net.restart("spoke2")
    assert net.ends["spoke2"].show("public-key") == key
    net.spoke2.reaches(HUB)


def test_the_home_moves_and_the_name_with_it(net: Lab) -> None:
    """Who is behind a NAT must ask for the name again; who is not hears of it from the hub."""
    try:
        net.move_home()
        assert lost(net.spoke1, HUB, 2) == 2
        assert MOVED in net.spoke1.run(["getent", "ahostsv4", "hub.lab"])
        dial(net, "spoke1")
        net.hub.reaches(SPOKE2)
        assert net.ends["spoke2"].show("endpoints").endswith(f"{MOVED}:{PORT}")
    finally:
        net.move_home(HOME)
    dial(net, "spoke1")
    dial(net, "spoke2")


def dial(net: Lab, spoke: str) -> None:
    end = net.ends[spoke]
    words = ["wg", "set", end.interface, "peer", net.ends["hub"].public_key, "endpoint", f"hub.lab:{PORT}"]
    end.space.run(words)
    end.space.reaches(HUB)


def test_udp_is_blocked_and_nothing_else(net: Lab) -> None:
    net.block_udp("spoke1")
    try:
        assert lost(net.spoke1, HUB, 2) == 2
        assert net.spoke1.ping(HOME) is not None
        assert HOME in net.spoke1.run(["getent", "ahostsv4", "hub.lab"])
    finally:
        net.heal("spoke1")
    net.spoke1.reaches(HUB)


def test_a_port_that_is_stuck_is_left_behind_by_another(net: Lab) -> None:
    spoke = net.ends["spoke1"]
    net.block_port("spoke1")
    try:
        assert lost(net.spoke1, HUB, 2) == 2
        net.spoke1.run(["wg", "set", spoke.interface, "listen-port", "51999"])
        net.spoke1.reaches(HUB)
    finally:
        net.heal("spoke1")
        net.spoke1.run(["wg", "set", spoke.interface, "listen-port", str(PORT)])
    net.spoke1.reaches(HUB)


def test_a_nat_that_forgot_its_flows_gives_another_port(net: Lab) -> None:
    before = net.ends["hub"].show("endpoints")
    net.rebind()
    net.spoke1.reaches(HUB)
    after = net.ends["hub"].show("endpoints")
    assert "80.2.2.10:20" in before
    assert "80.2.2.10:30" in after


def test_larger_packets_vanish_without_a_word(net: Lab) -> None:
    assert net.spoke1.ping(HUB, size=1420, whole=True) is not None
    net.narrow("spoke1", 1280)
    try:
        assert net.spoke1.ping(HUB, size=1420, whole=True, limit_s=0.5) is None
        assert net.spoke1.ping(HUB, size=1200, whole=True) is not None
    finally:
        net.heal("spoke1")
    assert net.spoke1.ping(HUB, size=1420, whole=True) is not None


def test_some_packets_are_lost_each_way(net: Lab) -> None:
    net.lose("spoke1", 30)
    try:
        assert 14 <= lost(net.spoke1, HUB, 60, limit_s=0.1) <= 47, "30 % each way make 31 of 60"
    finally:
        net.heal("spoke1")
    assert lost(net.spoke1, HUB, 20) == 0


def test_the_relay_takes_its_time_and_nobody_sees_it(net: Lab) -> None:
    net.delay("spoke2", 0.2)
    try:
        trip = net.spoke2.ping(HUB, limit_s=2)
        assert trip is not None
        assert 0.2 <= trip < 0.4
        assert net.ends["spoke2"].show("endpoints").endswith(f"{HOME}:{PORT}")
    finally:
        net.delay("spoke2", 0)
    net.spoke2.reaches(HUB)
    assert (net.spoke2.ping(HUB) or 1) < 0.1


def test_a_slow_link_lets_so_much_through(net: Lab) -> None:
    net.throttle("spoke2", 1.0)
    try:
        assert 0.6 < _mbit(net, 300_000) < 1.4
    finally:
        net.heal("spoke2")


def _mbit(net: Lab, size: int) -> float:
    """Return how fast the hub gets a TCP stream from spoke2."""
    with net.hub.open_socket(socket.AF_INET, socket.SOCK_STREAM) as door:
        door.bind((HUB, 7777))
        door.listen()
        with net.spoke2.open_socket(socket.AF_INET, socket.SOCK_STREAM) as sender:
            sender.settimeout(20)
            sender.connect((HUB, 7777))
            there, _ = door.accept()
            begun, got = time.monotonic(), 0
            sender.settimeout(0)
            left = memoryview(bytes(size))
            there.settimeout(20)
            while got < size:
                with suppress(BlockingIOError):
                    left = left[sender.send(left) :] if left else left
                got += len(there.recv(65536))
            there.close()
            return got * 8 / (time.monotonic() - begun) / 1e6


def test_a_captive_portal_answers_for_the_internet(net: Lab) -> None:
    assert _status(net.spoke1) == "204"
    net.imprison()
    try:
        assert _status(net.spoke1) == "302"
        assert lost(net.spoke1, HUB, 2) == 2
    finally:
        net.release()
    net.spoke1.reaches(HUB)
    assert _status(net.spoke1) == "204"


def _status(space: Space) -> str:
    with space.open_socket(socket.AF_INET, socket.SOCK_STREAM) as http:
        http.settimeout(5)
        http.connect((WEB, 80))
        http.send(b"GET /generate_204 HTTP/1.0\r\nHost: web.lab\r\n\r\n")
        return http.recv(4096).split()[1].decode()


def test_nothing_is_left_of_a_lab_whose_test_was_killed() -> None:
    script = textwrap.dedent("""
        import time
        from tests.netlab.lab import lab
        with lab():
            print("made", flush=True)
            time.sleep(60)
    """)
    maker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert maker.stdout is not None
    assert maker.stdout.readline() == b"made\n"
    os.kill(maker.pid, signal.SIGKILL)
    maker.communicate()
    assert len(list(NETNS.glob(f"lab{maker.pid}n*"))) == 6

    sweep()

    assert not list(NETNS.glob(f"lab{maker.pid}n*"))
    assert not list(WIREGUARD.glob(f"wg{maker.pid}n*"))
    assert not list(RESOLVERS.glob(f"lab{maker.pid}n*"))
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if f"wg{maker.pid}n" in _words(pid)]


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
