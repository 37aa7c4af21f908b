"""A daemon with readers that do not read and publishers that flood, beside two services that do as they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing import Node, free_port, pss_bytes
from tests.system.watching import plugin, runs, scrape, until

MIB = 1 << 20
BOUND = 24 * MIB
SLACK = 120 * MIB
"""A fifth of a second of what a program can send, and what the allocator keeps."""

EVENT = """
from sparkd import event

@event("test.tick")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    n: int
"""
TICKER = """\
task_status.started()
n = 0
while True:
    n += 1
    await ctx.bus.publish(Tick(n=n))
    await anyio.sleep(0.002)
"""
READER = """\
async with ctx.bus.subscribe(Tick) as ticks:
    task_status.started()
    async for tick in ticks:
        pass
"""
FLOODER = """\
task_status.started()
while True:
    await ctx.bus.publish(Tick(n=1), topic="test.tick.flood")
"""
HOSTILE = """
import os, sys, time, zmq
context = zmq.Context()
run = sys.argv[1]

def reader(what=b""):
    s = context.socket(zmq.SUB)
    s.setsockopt(zmq.RCVHWM, 10)
    s.subscribe(what)
    s.connect(f"ipc://{run}/bus.sub")
    return s

def writer(high_water=100):
    s = context.socket(zmq.PUB)
    s.setsockopt(zmq.SNDHWM, high_water)
    s.setsockopt(zmq.LINGER, 0)
    s.connect(f"ipc://{run}/bus.pub")
    time.sleep(0.3)
    print("on", flush=True)
    return s

"""
SILENT = "s = reader()\ntime.sleep(0.3)\nprint('on', flush=True)\ntime.sleep(1000)"
STORM = """
s = reader(b"edge.storm")
for n in range(20_000):
    s.subscribe(b"edge.storm.%d" % n)
time.sleep(0.3)
print("on", flush=True)
time.sleep(1000)
"""
BIG = "s = writer()\nwhile True:\n    s.send_multipart([b'test.big', b'x', os.urandom(16) * 65535]); time.sleep(0.002)"
GARBAGE = "s = writer()\nwhile True:\n    s.send(os.urandom(40)); s.send_multipart([b'edge.x', b'\\xc1', b'{'])"
TOO_BIG = "s = writer()\nwhile True:\n    s.send(bytes(8 << 20)); time.sleep(0.02)"


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    node = Node("n", folder, f'[node]\nname = "n"\nmetrics_listen = ""\n[bus]\nqueue_max_bytes = {BOUND}\n').prepare()
    drop(node, "ticker", TICKER, 'publishes=("test.tick",)')
    drop(node, "reader", READER, 'reads=("test.tick",)')
    try:
        node.start()
        runs(node, "ticker")
        runs(node, "reader")
        yield node
    finally:
        node.stop()


def drop(node: Node, name: str, body: str, offer: str) -> None:
    (node.plugins / f"{name}.py").write_text(plugin(body, name=name, more=EVENT, offer=offer))


def stats(node: Node, name: str) -> dict[str, Any]:
    found: dict[str, Any] = node.call("bus.stats")["services"][name]
    return found


def reading(node: Node) -> dict[str, Any]:
    sub: dict[str, Any] = until(lambda: stats(node, "reader")["subscriptions"], lambda subs: subs)[0]
    return sub


@contextmanager
def program(node: Node, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a hostile program; it is killed at the end."""
    command = [sys.executable, "-c", HOSTILE + text, str(node.root / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            yield process
        finally:
            process.kill()


def harmless(node: Node, *, for_s: float) -> float:
    """Watch the node: it answers, its memory is bounded, and ticks come. Return the slowest answer, in seconds."""
    assert node.process is not None
    before, slowest, most = reading(node), 0.0, 0
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        asked = time.monotonic()
        node.call("node.version")
        slowest = max(slowest, time.monotonic() - asked)
        most = max(most, pss_bytes(node.process.pid))
        time.sleep(0.05)
    after = reading(node)
    assert after["lost"] == before["lost"], "a healthy reader of a healthy publisher loses nothing"
    assert after["received"] - before["received"] > for_s * 50, "and events keep coming"
    assert slowest < 2
    assert most < BOUND + SLACK
    return slowest


@pytest.mark.timeout(90)
def test_readers_that_do_not_read_are_cut_off_and_cost_nobody_else(node: Node) -> None:
    with ExitStack() as stack:
        stopped = stack.enter_context(program(node, SILENT))
        os.kill(stopped.pid, signal.SIGSTOP)
        stack.enter_context(program(node, SILENT))
        dead = stack.enter_context(program(node, SILENT))
        stack.enter_context(program(node, STORM))
        stack.enter_context(program(node, BIG))
        dead.kill()
        harmless(node, for_s=3)

        broker = node.call("bus.stats")["broker"]
        assert broker["cut_off"] >= 2
        assert "bus: reader cut off" in node.log.read_text()
        os.kill(stopped.pid, signal.SIGCONT)
    harmless(node, for_s=0.5)
    assert node.stop() == 0


@pytest.mark.timeout(90)
@pytest.mark.parametrize("text", [BIG, GARBAGE, TOO_BIG], ids=["big", "garbage", "too-big"])
def test_a_program_that_floods_the_bus_harms_no_service(node: Node, text: str) -> None:
    with program(node, text):
        harmless(node, for_s=2)
    for _ in range(5):  # killed in the middle of a message
        with program(node, text):
            time.sleep(0.05)
    harmless(node, for_s=0.5)
    assert "Traceback" not in node.log.read_text()


@pytest.mark.timeout(60)
def test_a_service_in_a_tight_loop_is_held_to_its_bound(node: Node) -> None:
    drop(node, "flooder", FLOODER, 'publishes=("test.tick",)')
    runs(node, "flooder")
    begun, first = time.monotonic(), until(lambda: stats(node, "flooder"), lambda it: it["flooded"])
    harmless_without_ticks(node, for_s=2)
    last = stats(node, "flooder")
    rate = (last["published"] - first["published"]) / (time.monotonic() - begun)

    assert last["flooded"] > first["flooded"] > 0
    assert rate < 25_000
    assert "flooding the bus" in node.log.read_text()
    assert node.log.read_text().count("flooding the bus") == 1
    until(lambda: reading(node)["lost"], lambda lost: lost > 0, limit_s=5)


def harmless_without_ticks(node: Node, *, for_s: float) -> None:
    """Watch a node whose reader reads the flood too: it loses, and says so; the daemon and all others stay well."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        asked = time.monotonic()
        states = {service["name"]: service["state"] for service in node.call("node.status")["services"]}
        assert time.monotonic() - asked < 3
        assert states == {"ticker": "running", "reader": "running", "flooder": "running"}


@pytest.mark.timeout(60)
def test_a_plugins_own_table_sets_its_bound_and_metrics_tell(folder: Path) -> None:
    config = '[node]\nname = "n"\nmetrics_listen = "127.0.0.1:{}"\n[plugins.flooder]\npublish_messages_per_s = 100\n'
    port = free_port()
    node = Node("n", folder, config.format(port)).prepare()
    drop(node, "flooder", FLOODER, 'publishes=("test.tick",)')
    try:
        node.start()
        runs(node, "flooder")
        found = until(lambda: stats(node, "flooder"), lambda it: it["flooded"] > 0)
        page = scrape(f"127.0.0.1:{port}")
    finally:
        node.stop()

    assert found["published"] < 2000
    assert 'sparkd_bus_flooded_total{service="flooder"}' in page
    assert 'sparkd_bus_readers_cut_off_total{service="core"} 0.0' in page
