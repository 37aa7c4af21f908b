"""What is promised of events that are not durable: they pass when the disk is full, and leave nothing on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing import Node
from tests.system.watching import client, plugin, runs, until

MARK = "c0ffee-" + "0123456789" * 3
EVENTS = f"""\
from sparkd import event, Durability
@event("edge.sensors.live")
@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    n: int
    mark: str = "{MARK}"

@event("edge.sensors.mode", durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    n: int
    mark: str = "{MARK}"
"""
SAYS = """\
task_status.started()
n = 0
while True:
    n += 1
    await ctx.bus.publish(Mode(n=n))
    await ctx.bus.publish(Live(n=n))
    await anyio.sleep(0.02)
"""


def write(node: Node) -> None:
    text = plugin(SAYS, name="says", more=EVENTS, offer="publishes=(Live, Mode)")
    (node.plugins / "says.py").write_text(text)


@pytest.fixture
def saying(lone: Node) -> Node:
    write(lone)
    lone.call("plugins.rescan")
    runs(lone, "says")
    return lone


def hear(node: Node, count: int) -> list[dict[str, Any]]:
    """Return the next events of the live topic."""
    heard = []
    with client(node) as connection:
        for event in connection.results("bus.subscribe", {"topics": ["edge.sensors.live"]}):
            heard.append(event["event"])
            if len(heard) == count:
                break
    return heard


def mode(node: Node) -> int:
    held = node.call("bus.last", topic="edge.sensors.mode")
    return int(held[0]["event"]["n"]) if held else 0


def test_events_and_states_leave_nothing_on_disk(saying: Node) -> None:
    """So a power cut loses them all, and a damaged page none of them."""
    hear(saying, 20)
    saying.stop()
    holding = []
    for file in saying.root.rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".pyc") and "last-known-good" not in file.parts:
            with suppress(OSError):
                if MARK.encode() in file.read_bytes():
                    holding.append(str(file))
    assert holding == []


def test_a_state_is_gone_with_the_core_until_it_is_said_again(saying: Node) -> None:
    before = until(lambda: mode(saying), lambda n: n > 20)
    saying.kill()
    saying.start()
    runs(saying, "says")
    after = until(lambda: mode(saying), lambda n: n > 0)
    assert after < before, "said anew, by a service that counts from one"


@pytest.fixture
def full(folder: Path) -> Iterator[Node]:
    """A node whose state lies on a small disk."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    state = folder / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
    node = Node("lone", folder, '[node]\nname = "lone"\nmetrics_listen = ""\n').prepare()
    write(node)
    try:
        yield node.start()
    finally:
        node.stop()
        subprocess.run(["umount", "-l", state], check=True)


def test_events_and_states_pass_while_the_disk_is_full(full: Node) -> None:
    runs(full, "says")
    with suppress(OSError), (full.state / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))
    numbers = [event["n"] for event in hear(full, 50)]
    assert numbers == list(range(numbers[0], numbers[0] + 50)), "none is missing"
    assert mode(full) >= numbers[-1] - 1
