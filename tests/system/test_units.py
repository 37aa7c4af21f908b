"""A service of another user beside a real core: let in by its token only, its records kept by the core, once."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.config import load_config
from sparkd.errors import CallError
from sparkd.testing import Node
from tests.priv.priv_rig import NOBODY, Priv, priv_in, usable
from tests.system.watching import QUIET, plugin, runs, service, until

pytestmark = pytest.mark.skipif(bool(usable()), reason=usable() or "it can")

MORE = """
from typing import Any, Protocol
from sparkd import Durability, LocalMessageError, Record, StorageError, event, interface

@event("edge.telemetry.it", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    n: int

@interface("desk")
class Desk(Protocol):
    async def append(self, *, first: int, count: int, size: int) -> list[int]: ...
    async def read(self, *, of: str, stream: str, name: str) -> list[str]: ...
    async def marks(self, *, value: str) -> list[str]: ...
    async def said(self) -> dict[str, Any]: ...
    async def publish(self, *, n: int) -> None: ...
    async def wait(self) -> int: ...

class AtDesk:
    def __init__(self, ctx):
        self.ctx = ctx

    async def append(self, *, first, count, size):
        numbers = range(first, first + count)
        records = [Record(topic="edge.telemetry.it", body=bytes(size), key=f"key-{n}") for n in numbers]
        async with self.ctx.outbox.writer("own") as writer:
            return await writer.append(records)

    async def read(self, *, of, stream, name):
        found = []
        async with self.ctx.outbox.reader(of, stream, name=name) as reader:
            while stored := await reader.read(max_records=1000, max_bytes=1 << 20):
                found += [one.record.key or "" for one in stored]
                await reader.advance(stored[-1].seq)
        return found

    async def marks(self, *, value):
        async with self.ctx.outbox.writer("own") as writer:
            before = writer.mark("place") or b""
            await writer.append([], marks={"place": value.encode()})
            return [before.decode(), writer.mark("place").decode()]

    async def said(self):
        with open("/proc/self/status") as status:
            uid = next(line for line in status if line.startswith("Uid:")).split()[1]
        return {"uid": int(uid), "state": str(self.ctx.state_dir), "streams": await self.ctx.outbox.streams()}

    async def publish(self, *, n):
        await self.ctx.bus.publish(Kept(n=n), key=f"event-{n}")

    async def wait(self):
        async with self.ctx.outbox.writer("own") as writer:
            await writer.append([Record(topic="edge.telemetry.it", body=b"", key="first")])
            async with self.ctx.outbox.reader("it", "own", name="waiter") as reader:
                await reader.advance(await reader.tail())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(reader.wait)
                    await anyio.sleep(0.2)
                    (number,) = await writer.append([Record(topic="edge.telemetry.it", body=b"x")])
                    return number
"""
BODY = "await ctx.serve(Desk, AtDesk(ctx))\nprint('plain words', flush=True)\n" + QUIET
CONFIG = """
[node]
name = "lone"
metrics_listen = ""
priv_socket = "{priv}"

[plugins.it]
isolation = "unit"
"""


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    folder.chmod(0o755)
    with priv_in(folder / "p") as priv:
        node = Node("lone", folder, CONFIG.format(priv=priv.path)).prepare()
        point(priv, node)
        (node.plugins / "it.py").write_text(
            plugin(BODY, more=MORE, offer="serves=(Desk,), publishes=(Kept,), reads=(Kept,)")
        )
        try:
            yield node.start()
        finally:
            node.stop()


def point(priv: Priv, node: Node) -> None:
    """Let the root daemon believe this node's config."""
    priv.settings.write_text(f'config = "{node.config_file}"\nruntime_dir = "{node.root}/run"\naccount = "root"\n')
    load_config(node.config_file)


def calls(node: Node, method: str, **params: Any) -> Any:
    return node.call(f"desk.{method}", **params)


def test_it_runs_as_another_user_and_its_words_are_in_the_log(node: Node) -> None:
    found = runs(node, "it", limit_s=20)
    said = calls(node, "said")

    assert (found["isolation"], said["uid"]) == ("unit", NOBODY)
    assert said["state"].endswith("state-sparkd-plugin-it")
    until(
        lambda: node.call("logs.tail", service="it"), lambda lines: any("plain words" in one["text"] for one in lines)
    )


def test_its_records_are_kept_by_the_core_in_its_own_name_and_read_back(node: Node) -> None:
    runs(node, "it", limit_s=20)
    assert calls(node, "append", first=0, count=100, size=100) == list(range(1, 101))
    assert calls(node, "marks", value="a") == ["", "a"]
    assert calls(node, "marks", value="b") == ["a", "b"]
    calls(node, "publish", n=1)
    calls(node, "publish", n=1)

    assert calls(node, "read", of="it", stream="own", name="one") == [f"key-{n}" for n in range(100)]
    assert calls(node, "read", of="it", stream="own", name="one") == []
    streams = {(one["service"], one["stream"]): one for one in node.call("outbox.status")}
    assert streams["it", "own"]["last_seq"] == 100
    assert streams["it", "events"]["last_seq"] == 1
    assert calls(node, "said")["streams"] == [["it", "events"], ["it", "own"]]
    assert calls(node, "wait") == 102


def test_what_is_too_large_or_of_others_is_refused_with_a_reason(node: Node) -> None:
    runs(node, "it", limit_s=20)
    (node.plugins / "other.py").write_text(
        plugin(
            "async with ctx.outbox.writer('secrets') as writer:\n"
            "    await writer.append([Record(topic='edge.telemetry', body=b'x')])\n"
            "    task_status.started()\n    await anyio.sleep_forever()",
            name="other",
            more="from sparkd import Record",
        )
    )
    runs(node, "other")

    with pytest.raises(CallError, match="reads its own streams only"):
        calls(node, "read", of="other", stream="secrets", name="one")
    with pytest.raises(CallError, match="append less at once"):
        calls(node, "append", first=0, count=4, size=1 << 20)
    assert calls(node, "append", first=0, count=2, size=1 << 20) == [1, 2]


def comes_back(node: Node, old: int) -> None:
    until(lambda: service(node, "it"), lambda found: found.get("pid") not in {None, old}, limit_s=20)
    runs(node, "it", limit_s=20)


def test_through_kill_9_each_record_is_stored_once(node: Node) -> None:
    runs(node, "it", limit_s=20)
    acknowledged: set[str] = set()
    for turn in range(4):
        before = runs(node, "it", limit_s=20)
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.{turn + 1}; kill -9 {before['pid']}"])
        first = 0
        while service(node, "it").get("pid") == before["pid"] and killer.poll() is None:
            try:
                calls(node, "append", first=turn * 1000 + first, count=10, size=50)
            except CallError:
                break
            acknowledged |= {f"key-{turn * 1000 + first + n}" for n in range(10)}
            first += 10
        killer.wait()
        comes_back(node, before["pid"])
        calls(node, "append", first=turn * 1000 + first, count=10, size=50)  # whoever does not know tries again
        acknowledged |= {f"key-{turn * 1000 + first + n}" for n in range(10)}
    stored = calls(node, "read", of="it", stream="own", name="all")

    assert len(stored) == len(set(stored))
    assert set(stored) == acknowledged
    assert len(stored) > 50


def test_a_kill_is_told_as_what_it_was(node: Node) -> None:
    before = runs(node, "it", limit_s=20)
    os.kill(before["pid"], signal.SIGSEGV)
    after = until(lambda: service(node, "it"), lambda found: found.get("restarts") == 1, limit_s=20)

    assert "SIGSEGV" in (after["last_failure"] or {}).get("reason", after["reason"])
    runs(node, "it", limit_s=20)


def as_nobody(script: str) -> str:
    """Run a script as the unit's user, in a process of its own."""
    may = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    words = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", *may)
    done = subprocess.run(
        [*words, "/usr/bin/python3", "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


KNOCK = """
import socket
s = socket.socket(socket.AF_UNIX)
s.connect({path!r})
s.settimeout(8)
try:
    s.sendall({content!r})
    while chunk := s.recv(65536):
        pass
    print("cut off")
except (BrokenPipeError, ConnectionResetError):
    print("cut off")
except TimeoutError:
    print("still there")
"""


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage that is no message of ours at all",
        struct.pack("<II", 1, 1) + b"xy",
        struct.pack("<II", 5000, 0) + bytes(5000),
        struct.pack("<II", 0xFFFFFFFF, 0),
    ],
    ids=["silent", "garbage", "no-hello", "long", "huge"],
)
def test_one_of_the_same_user_who_has_no_token_is_cut_off(node: Node, content: bytes) -> None:
    before = runs(node, "it", limit_s=20)
    begun = time.monotonic()

    assert as_nobody(KNOCK.format(path=f"{node.root}/run/calls", content=content)) == "cut off"
    assert time.monotonic() - begun < 8
    assert service(node, "it")["pid"] == before["pid"]


def test_the_bus_lets_in_the_unit_s_process_and_no_other_of_its_user(node: Node) -> None:
    runs(node, "it", limit_s=20)
    calls(node, "publish", n=7)
    before = node.call("bus.stats")["broker"]["refused"]
    for name in ("bus.pub", "bus.sub"):  # the file lets it connect; the broker does not
        assert as_nobody(ZMTP.format(path=f"{node.root}/run/{name}", kind="PUB" if name == "bus.pub" else "SUB")) == (
            "refused"
        )
    assert node.call("bus.stats")["broker"]["refused"] > before


def test_without_a_unit_no_other_user_gets_as_far_as_the_sockets(lone: Node) -> None:
    for name in ("calls", "bus.pub"):
        assert (lone.root / "run" / name).stat().st_mode & 0o777 == 0o600
    (lone.root / "run" / "calls").chmod(0o666)

    assert as_nobody(KNOCK.format(path=f"{lone.root}/run/calls", content=b"x")) == "cut off"


def test_without_sparkd_priv_the_service_waits_and_says_what_to_do(folder: Path) -> None:
    node = Node("lone", folder, CONFIG.format(priv=folder / "none")).prepare()
    (node.plugins / "it.py").write_text(plugin(QUIET))
    try:
        node.start()
        found = until(lambda: service(node, "it"), lambda one: one.get("state") == "waiting")
    finally:
        node.stop()

    assert "sparkd-priv is not there" in found["reason"]
    assert found["remedy"] == "systemctl enable --now sparkd-priv.socket"


# A ZMTP 3.1 greeting and READY by hand (https://rfc.zeromq.org/spec/37/): the system's Python has no zmq.
ZMTP = """
import socket
s = socket.socket(socket.AF_UNIX)
s.connect({path!r})
s.settimeout(5)
greeting = b"\\xff" + bytes(8) + b"\\x7f\\x03\\x01" + b"NULL".ljust(20, b"\\0") + bytes(32)
s.sendall(greeting)
got = b""
while len(got) < 64:
    chunk = s.recv(64 - len(got))
    if not chunk:
        break
    got += chunk
ready = b"\\x05READY\\x0bSocket-Type\\x00\\x00\\x00\\x03PUB"
answer = b""
try:
    s.sendall(b"\\x04" + bytes([len(ready)]) + ready)
    answer = s.recv(100)
except OSError:
    pass
print("let in" if b"READY" in answer else "refused")
"""
