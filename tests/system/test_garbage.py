"""Random bytes at every door of both daemons at once, while pictures flow: nothing is lost, nothing restarts."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import zmq

from sparkd.testing import Node, Pair, kills
from tests.system.watching import scrape, until

Attack = Callable[[random.Random, threading.Event], None]
SEED = 20261123
WORDS = [b"node.status", b'{"jsonrpc":"2.0","id":1,"method":', b"\xff\x00", b"edge.ai.inference", b"[]", b"{", b"\n"]


def junk(chance: random.Random, most: int = 2000) -> bytes:
    """Return bytes that are random, or look like something."""
    if chance.random() < 0.3:
        return b"".join(chance.choices(WORDS, k=chance.randint(1, 6)))
    return chance.randbytes(chance.randint(0, most))


def on_stream(family: int, address: str | tuple[str, int]) -> Attack:
    """Write junk to a stream socket, in lines and without, and hang up; again and again."""

    def attack(chance: random.Random, over: threading.Event) -> None:
        while not over.wait(0.01):
            with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as door:
                door.settimeout(0.2)
                door.connect(address)
                for _ in range(chance.randint(1, 8)):
                    door.sendall(junk(chance) + chance.choice([b"", b"\n"]))
                with suppress(TimeoutError):
                    door.recv(4096)

    return attack


def on_zmq(kind: int, endpoint: str, frames: Callable[[random.Random], list[bytes]], *, curve: bool = False) -> Attack:
    """Send multipart junk over ZeroMQ, from a fresh socket every few messages."""

    def attack(chance: random.Random, over: threading.Event) -> None:
        with zmq.Context() as context:
            while not over.wait(0.02):
                with context.socket(kind) as door:
                    door.linger = 0
                    door.sndtimeo = 100
                    if curve:
                        door.curve_publickey, door.curve_secretkey = zmq.curve_keypair()
                        door.curve_serverkey = zmq.curve_keypair()[0]
                    door.connect(endpoint)
                    over.wait(0.05)
                    for _ in range(30):
                        with suppress(zmq.Again):
                            door.send_multipart(frames(chance))

    return attack


def anything(chance: random.Random) -> list[bytes]:
    return [junk(chance) for _ in range(chance.randint(1, 5))]


def like_an_event(chance: random.Random) -> list[bytes]:
    topic = chance.choice([b"edge.telemetry", b"edge.ai.inference", b"system.health", b"sparkd.tails"])
    return [topic, junk(chance, 60), junk(chance)][: chance.randint(2, 3)]


def attacks_on(node: Node) -> Iterator[Attack]:
    run = node.root / "run"
    for name in ("sparkd.sock", "calls", "bus.pub", "bus.sub"):
        yield on_stream(socket.AF_UNIX, str(run / name))
    yield on_zmq(zmq.DEALER, f"ipc://{run / 'calls'}", anything)
    yield on_zmq(zmq.PUB, f"ipc://{run / 'bus.pub'}", anything)
    yield on_zmq(zmq.PUB, f"ipc://{run / 'bus.pub'}", like_an_event)
    yield on_zmq(zmq.XSUB, f"ipc://{run / 'bus.sub'}", lambda chance: [b"\x01" + junk(chance, 50)])


def attacks_on_link(port: int) -> Iterator[Attack]:
    yield on_stream(socket.AF_INET, ("127.0.0.1", port))
    yield on_zmq(zmq.DEALER, f"tcp://127.0.0.1:{port}", anything)
    yield on_zmq(zmq.DEALER, f"tcp://127.0.0.1:{port}", anything, curve=True)


@contextmanager
def under_attack(pair: Pair) -> Iterator[None]:
    """Attack every door of both nodes until the context is left."""
    port = int(pair.cloud.config.partition('listen = "127.0.0.1:')[2].partition('"')[0])
    link_port = int(pair.cloud.config.partition('[link]\nlisten = "127.0.0.1:')[2].partition('"')[0])
    assert port != link_port
    attacks = [*attacks_on(pair.edge), *attacks_on(pair.cloud), *attacks_on_link(link_port)]
    over = threading.Event()
    threads = [
        threading.Thread(target=attack, args=(random.Random(SEED + number), over))
        for number, attack in enumerate(attacks)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def lives(node: Node) -> dict[str, tuple[object, ...]]:
    status = node.call("node.status")
    return {s["name"]: (s["pid"], s["restarts"], s["state"]) for s in status["services"]}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_garbage_at_every_door_harms_nothing(pair: Pair) -> None:
    until(lambda: pair.edge.call("node.status")["links"][0], lambda link: link["connected"])
    before = lives(pair.edge), lives(pair.cloud)
    daemons = pair.edge.process, pair.cloud.process
    with under_attack(pair):
        names = kills.feed(pair, count=150, seed=5)
        stored = kills.wait_until_stored(pair, names, limit_s=60)
        during = lives(pair.edge), lives(pair.cloud)

    assert sorted(stored) == sorted(names)
    assert during == before
    assert (pair.edge.process, pair.cloud.process) == daemons, "neither was started again"
    assert counted(pair.cloud, "sparkd_link_strangers_total") > 0
    for node in (pair.edge, pair.cloud):
        assert counted(node, 'sparkd_rpc_total{service="core",what="malformed"}') > 0
        assert "Traceback" not in node.last_words()
        assert node.call("node.health")
        stats = node.call("bus.stats")["services"]
        assert any(sub["malformed"] for s in stats.values() for sub in subscriptions(s)), "what came is counted"
        assert node.log.stat().st_size < 1_000_000, "nobody can flood the log"
        assert node.stop() == 0


def counted(node: Node, name: str) -> float:
    """Return the sum of a counter of the core."""
    address = node.config.partition('metrics_listen = "')[2].partition('"')[0]
    return sum(float(line.rpartition(" ")[2]) for line in scrape(address).splitlines() if line.startswith(name))


def subscriptions(stats: dict[str, object]) -> list[dict[str, int]]:
    found = stats["subscriptions"]
    assert isinstance(found, list)
    return found
