"""Pictures between the services of a daemon, as events and in calls; and who is killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node
from tests.system.watching import plugin, runs, service, until

MIB = 1 << 20

SHARED = """
import hashlib
from collections.abc import AsyncIterator
from typing import Any, Protocol
import numpy as np
from sparkd import Array, CallError, Durability, Policy, event, interface, reads

@event("test.frame")
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    n: int
    picture: Array

@event("test.kept", durability=Durability.STATE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    picture: Array

@interface("vision-test")
class Eye(Protocol):
    @reads
    async def negative(self, *, picture: Array) -> Array: ...
    @reads
    async def blob(self, *, data: bytes) -> bytes: ...

@interface("ask")
class Ask(Protocol):
    @reads
    async def seen(self) -> dict[str, int]: ...
    async def negative(self, *, bytes: int) -> dict[str, Any]: ...
    async def blob(self, *, bytes: int) -> int: ...
    async def keep(self, *, bytes: int) -> str: ...
"""
CAMERA = """\
task_status.started()
n = 0
while True:
    n += 1
    picture = np.full((480, 640, 3), n % 256, dtype=np.uint8)
    await ctx.bus.publish(Frame(n=n, picture=Array.of(picture)))
    await anyio.sleep(0.01)
"""
EYE = """\
class Handler:
    async def negative(self, *, picture):
        return Array.of(255 - picture.view())
    async def blob(self, *, data):
        return data[::-1]
await ctx.serve(Eye, Handler())
task_status.started()
await anyio.sleep_forever()
"""
VIEWER = """\
counts = {"frames": 0, "torn": 0, "lost": 0}

class Handler:
    async def seen(self):
        return counts
    async def negative(self, *, bytes):
        picture = np.arange(bytes, dtype=np.uint8)
        answer = (await ctx.call(Eye, deadline_s=20).negative(picture=Array.of(picture))).view()
        right = bool((answer == 255 - picture).all())
        return {"right": right, "bytes": int(answer.nbytes), "copied": bool(answer.flags.writeable)}
    async def blob(self, *, bytes):
        return len(await ctx.call(Eye).blob(data=b"x" * bytes))
    async def keep(self, *, bytes):
        try:
            await ctx.bus.publish(Kept(picture=Array.of(b"x" * bytes)))
        except Exception as error:
            return str(error)
        return "kept"

await ctx.serve(Ask, Handler())
async with ctx.bus.subscribe(Frame, policy=Policy.LATEST) as frames:
    task_status.started()
    async for frame in frames:
        picture = frame.event.picture.view()
        counts["frames"] += 1
        counts["torn"] += int((picture != frame.event.n % 256).any())
        counts["lost"] = frames.lost
"""


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    config = '[node]\nname = "n"\nmetrics_listen = ""\n[bus]\nshm_max_bytes = 16777216\n'
    node = Node("n", folder, config).prepare()
    drop(node, "camera", CAMERA, 'publishes=("test.frame",)')
    drop(node, "eye", EYE, "serves=(Eye,)")
    drop(node, "viewer", VIEWER, 'serves=(Ask,), reads=("test.frame",), publishes=(Kept,)')
    try:
        node.start()
        for name in ("camera", "eye", "viewer"):
            runs(node, name)
        yield node
    finally:
        node.stop()


def drop(node: Node, name: str, body: str, offer: str) -> None:
    (node.plugins / f"{name}.py").write_text(plugin(body, name=name, more=SHARED, offer=offer))


def slots(node: Node) -> list[Path]:
    return [path for path in (node.root / "run" / "shm").rglob("*") if path.name.isdigit()]


def parcels(node: Node) -> list[Path]:
    """Return what calls have in shared memory: all but the pictures, of which the viewer has one in its hand."""
    return [path for path in slots(node) if not path.parent.name.startswith("camera.")]


def folders(node: Node) -> set[str]:
    return {path.name.partition(".")[0] for path in (node.root / "run" / "shm").iterdir() if path.name != ".budget"}


def killed(node: Node, name: str) -> None:
    pid = service(node, name)["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: service(node, name), lambda now: now["state"] == "running" and now["pid"] != pid)


def more_frames(node: Node) -> dict[str, int]:
    before = until(lambda: seen(node), lambda counts: counts["frames"])
    return until(lambda: seen(node), lambda counts: counts["frames"] > before["frames"])


def seen(node: Node) -> dict[str, int]:
    found: dict[str, int] = node.call("ask.seen")
    return found


@pytest.mark.timeout(90)
def test_frames_are_seen_whole_whoever_is_killed_and_nothing_is_left(node: Node) -> None:
    until(lambda: seen(node), lambda counts: counts["frames"] > 20)
    torn = 0
    for name in ("camera", "viewer") * 5:
        killed(node, name)
        torn += more_frames(node)["torn"]

    assert torn == 0
    until(lambda: len(list((node.root / "run" / "shm").glob("camera.*"))), lambda count: count == 1)
    assert sum(path.stat().st_size for path in slots(node)) <= 16 * MIB
    until(lambda: service(node, "camera"), lambda it: it["state"] == "running")
    node.call("plugins.stop", name="camera")
    until(lambda: slots(node), lambda left: len(left) <= 1)  # the viewer has the last picture in its hand
    killed(node, "viewer")
    until(lambda: folders(node), lambda left: not left)


@pytest.mark.timeout(60)
def test_calls_carry_arrays_and_bytes_of_any_length_and_leave_nothing(node: Node) -> None:
    node.call("plugins.stop", name="camera")
    for size in (10, 600_000, 3 * MIB, 7 * MIB):
        answer = node.call("ask.negative", bytes=size)
        assert answer == {"right": True, "bytes": size, "copied": False}
        assert node.call("ask.blob", bytes=size) == size
    for _ in range(20):
        assert node.call("ask.negative", bytes=5 * MIB)["right"]
    until(lambda: parcels(node), lambda left: not left)

    with pytest.raises(CallError, match=r"half of .bus. shm_max_bytes") as refused:
        node.call("ask.negative", bytes=9 * MIB)
    assert refused.value.data["error"] == "too-large"


@pytest.mark.timeout(60)
def test_a_callee_killed_in_a_call_leaves_nothing(node: Node) -> None:
    node.call("plugins.stop", name="camera")
    slow = EYE.replace("return data[::-1]", "await anyio.sleep(100)")
    drop(node, "eye", slow, "serves=(Eye,)")
    pid = service(node, "eye").get("pid")
    until(lambda: service(node, "eye"), lambda s: s["state"] == "running" and s["pid"] != pid)
    with pytest.raises(TimeoutError):
        node.call("ask.blob", bytes=3 * MIB, timeout_s=1.0)
    os.kill(service(node, "eye")["pid"], signal.SIGKILL)

    until(lambda: parcels(node), lambda left: not left, limit_s=15)


@pytest.mark.timeout(60)
def test_what_is_kept_or_leaves_the_node_is_never_a_reference(node: Node) -> None:
    assert node.call("ask.keep", bytes=500_000) == "kept"
    node.call("plugins.stop", name="camera")
    (last,) = until(lambda: node.call("bus.last", topic="test.kept"), lambda found: found)
    assert last["event"]["picture"]["shape"] == [500_000]
    assert last["event"]["picture"]["data"] == "(500000 bytes, not shown)"
    assert "state: an event of" in node.call("ask.keep", bytes=2 * MIB)


def test_an_operator_sees_what_a_frame_is_without_its_bytes(node: Node) -> None:
    from sparkd.rpc.client import Client  # noqa: PLC0415

    with Client(node.socket_path) as client:
        frame: Any = next(client.results("bus.subscribe", {"topics": ["test.frame"]}))
    assert frame["event"]["picture"]["dtype"] == "|u1"
    assert frame["event"]["picture"]["shape"] == [480, 640, 3]
    assert len(str(frame["event"])) < 500


def test_two_daemons_share_nothing(node: Node, tmp_path: Path) -> None:
    other = Node("m", node.root / "other", '[node]\nname = "m"\nmetrics_listen = ""\n').prepare()
    try:
        other.start()
        until(lambda: slots(node), lambda found: found)
        assert not slots(other)
    finally:
        other.stop()


def test_what_a_killed_daemon_left_is_gone_when_it_starts_again(node: Node) -> None:
    until(lambda: slots(node), lambda found: found)
    assert node.process is not None
    node.kill()
    left = {path.parent.name for path in slots(node)}
    assert left
    node.start()
    assert not left & {path.parent.name for path in slots(node)}
