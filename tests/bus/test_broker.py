"""Who may connect to the broker, what it survives, and how it begins and ends."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

import anyio
import pytest
import zmq

from sparkd.bus import Broker, BusClient
from sparkd.bus.broker import MAX_KNOWN
from sparkd.bus.zap import LocalPeers
from tests.bus.bus_rig import Count, child, client, take, until

pytestmark = pytest.mark.anyio

NOBODY, READERS = 65534, 12345


def zmtp(path: Path, *messages: bytes) -> socket.socket:
    """Connect as a SUB written by hand (https://rfc.zeromq.org/spec/23/), which says what libzmq's own never would."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    connection.sendall(b"\xff" + bytes(7) + b"\x01\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    greeting = b""
    while len(greeting) < 64:
        greeting += connection.recv(64 - len(greeting))
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
    connection.sendall(b"\x04" + bytes([len(ready)]) + ready)
    connection.recv(200)
    connection.sendall(b"".join(b"\x00" + bytes([len(message)]) + message for message in messages))
    return connection


async def test_no_reader_can_take_the_bus_from_the_others(runtime: Path, broker: Broker) -> None:
    """libzmq passes unsubscriptions on that nobody made up, which would silence every publisher."""
    async with client(runtime) as bus, bus.subscribe(Count) as counts:
        taken = [b"\x00"] * 50 + [b"\x00test.count", b"\x00sparkd.tails", b"\x01now"]
        attacker = await anyio.to_thread.run_sync(zmtp, runtime / "bus.sub", *taken)
        try:
            await until(lambda: "now" in broker.subscriptions)
            await bus.publish(Count(n=1))
            async with client(runtime, "late") as late, late.subscribe(Count) as others:
                await late.publish(Count(n=2))
                assert [r.event.n for r in await take(counts, 2)] == [1, 2]
                assert [r.event.n for r in await take(others, 1)] == [2]
        finally:
            attacker.close()


async def test_a_reader_that_makes_up_topics_fills_no_list(runtime: Path, broker: Broker) -> None:
    context = zmq.Context()
    reader = context.socket(zmq.SUB)
    reader.setsockopt(zmq.SNDHWM, 0)
    try:
        reader.connect(f"ipc://{runtime / 'bus.sub'}")
        for n in range(MAX_KNOWN + 500):
            reader.subscribe(b"made-up.%d" % n)
        await until(lambda: len(broker.subscriptions) >= MAX_KNOWN)
        async with client(runtime) as bus, bus.subscribe(Count) as counts:
            await bus.publish(Count(n=1))
            await take(counts, 1)
        assert len(broker.subscriptions) == MAX_KNOWN
    finally:
        reader.close(linger=0)
        await anyio.to_thread.run_sync(context.term)


async def test_what_a_reader_says_is_bounded(runtime: Path, broker: Broker) -> None:
    """A subscription is a topic; the connection of one who sends a megabyte is closed."""
    attacker = await anyio.to_thread.run_sync(zmtp, runtime / "bus.sub")
    with attacker:
        attacker.sendall(b"\x02" + struct.pack(">Q", 1 << 20) + b"\x01")
        assert await anyio.to_thread.run_sync(attacker.recv, 1) == b""


async def test_sockets_are_closed_to_others(runtime: Path, broker: Broker) -> None:
    modes = {name: stat.S_IMODE((runtime / name).stat().st_mode) for name in ("bus.pub", "bus.sub")}

    assert modes == {"bus.pub": 0o600, "bus.sub": 0o660}


async def test_the_sockets_are_gone_afterwards(runtime: Path) -> None:
    async with Broker(runtime).open():
        assert {path.name for path in runtime.iterdir()} == {"bus.pub", "bus.sub"}
    assert not list(runtime.iterdir())


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
STRANGER = """
import os, sys, zmq
from zmq.utils.monitor import recv_monitor_message  # all imports while they can be read
groups, gid = [int(n) for n in sys.argv[2].split(",") if n], int(sys.argv[3])
os.setgroups(groups); os.setgid(gid); os.setuid(65534)
socket = zmq.Context().socket(zmq.SUB if sys.argv[1].endswith("sub") else zmq.XPUB)
socket.linger = 0
monitor = socket.get_monitor_socket()
socket.connect(sys.argv[1])
while True:
    event = recv_monitor_message(monitor)["event"]
    if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
        print("admitted", flush=True)
    elif event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_DISCONNECTED):
        print("refused", flush=True)
"""


@as_root
@pytest.mark.parametrize(
    ("name", "groups", "gid", "answer"),
    [
        ("bus.sub", "", NOBODY, "refused"),
        ("bus.sub", "", READERS, "admitted"),
        ("bus.sub", f"7,{READERS}", NOBODY, "admitted"),
        ("bus.sub", "7", NOBODY, "refused"),
        ("bus.pub", "", READERS, "refused"),
    ],
)
async def test_only_members_may_read_and_none_may_write(
    runtime: Path, name: str, groups: str, gid: int, answer: str
) -> None:
    refused: list[str] = []
    broker = Broker(runtime, reader_gids=frozenset({READERS}), on_refused=lambda domain, _: refused.append(domain))
    async with broker.open():
        runtime.chmod(0o755)
        (runtime / name).chmod(0o666)  # the file mode would refuse already
        async with child(STRANGER, f"ipc://{runtime / name}", groups, str(gid)) as line:
            assert await line() == answer
        assert (runtime / "bus.sub").stat().st_gid == READERS
    assert set(refused) == ({name} if answer == "refused" else set())
    assert broker.peers.refused == len(refused)


def test_an_address_that_is_none_is_refused() -> None:
    peers = LocalPeers({}, {"bus.sub": frozenset({READERS})})

    for address in ("", "localhost", "localhost:a:b:c", "1:2:3:4:5", "localhost:7:7:999999999", "localhost:7:7:-1"):
        assert not peers.admit("bus.sub", address)
    assert peers.refused == 6
    assert peers.admit("bus.sub", f"localhost:{os.getuid()}:7:1")


async def test_a_broker_that_cannot_listen_says_where_and_leaves_nothing(runtime: Path) -> None:
    folder = runtime / "x"
    folder.mkdir()
    (folder / "bus.sub").mkdir()  # the second socket cannot be made
    with anyio.fail_after(5), pytest.raises(OSError, match=r"bus\.sub"):
        async with Broker(folder).open():
            pass
    (folder / "bus.sub").rmdir()
    async with Broker(folder).open(), client(folder):
        pass


async def test_too_long_a_path_is_an_error(runtime: Path) -> None:
    folder = runtime / ("x" * 120)
    folder.mkdir()
    with anyio.fail_after(5), pytest.raises(OSError, match="cannot listen"):
        async with Broker(folder).open():
            pass


async def test_no_broker_is_an_error_that_says_where(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.bus.publisher.CONNECT_LIMIT_S", 0.05)
    with pytest.raises(OSError, match=r"bus\.pub: no broker answers"):
        async with client(runtime):
            pass


async def test_no_broker_to_subscribe_at_is_an_error_too(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.bus.subscription.CONNECT_LIMIT_S", 0.05)
    with pytest.raises(OSError, match=r"bus\.sub: no broker answers"):
        async with BusClient(runtime, node="n", service="s").subscribe_topic("test"):
            pass


async def test_a_second_broker_takes_over_the_sockets_of_a_dead_one(runtime: Path) -> None:
    (runtime / "bus.pub").write_text("left by a crash")
    async with Broker(runtime).open(), client(runtime) as bus, bus.subscribe(Count) as counts:
        await bus.publish(Count(n=1))
        await take(counts, 1)
