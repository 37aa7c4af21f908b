"""Two nodes and a cloud, cut apart, ended and joined again, writing the same keys: nothing vanishes or comes back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from sparkd.testing import short_folder
from sparkd_plugins.nas_tier import clock
from tests.plugins.memory_world import MemoryNode, World

NODES = ("a", "b", "c")
SITES = {"a": "home", "b": "home", "c": "cloud"}
KEYS = ("k0", "k1")
PHASES = (Phase.explicit, Phase.generate)
"""A story that fails is not made shorter: each takes seconds."""
Step = tuple[str, str, str]


@dataclass
class History:
    """A world, and what its nodes were told to be safe."""

    world: World
    hot: bool
    tasks: TaskGroup
    running: dict[str, tuple[MemoryNode, anyio.Event]] = field(default_factory=dict)
    written: defaultdict[str, dict[str, bytes | None]] = field(default_factory=lambda: defaultdict(dict))
    own: defaultdict[tuple[str, str], str] = field(default_factory=lambda: defaultdict(str))
    count: int = 0

    async def start(self, name: str) -> None:
        node, ended = (
            self.world.node(name, site=SITES[name], hot=self.hot and name == "a", through_s=0.3),
            anyio.Event(),
        )
        self.running[name] = (await self.tasks.start(node.live, ended), ended)

    async def stop(self, name: str) -> None:
        node, ended = self.running.pop(name)
        await node.end(ended)

    async def step(self, step: Step) -> None:
        deed, name, key = step
        node = self.running[name][0]
        if deed in ("put", "delete"):
            await self.write(node, key, delete=deed == "delete")
        elif deed == "get":
            await self.read(node, key)
        elif deed == "cut":
            node.cut |= {"long"} if key == "k0" else {"nas", "long"}
            node.deaf = True
        elif deed == "heal":
            node.cut.clear()
            node.deaf = False
            node.memory.syncing.tell("")
        elif deed == "restart":
            await self.stop(name)
            await self.start(name)
        elif deed == "settle" and not node.cut:
            await node.settled()

    async def write(self, node: MemoryNode, key: str, *, delete: bool) -> None:
        self.count += 1
        value = None if delete else b"%d of %s" % (self.count, node.node.encode())
        if value is None:
            made = await node.do("delete", namespace="news", key=key)
        else:
            made = await node.put(key, value, "news")
        assert made.etag not in self.written[key]
        self.written[key][made.etag] = value
        self.own[node.node, key] = made.etag

    async def read(self, node: MemoryNode, key: str) -> None:
        """What a node reads is never older than what it wrote itself."""
        if "nas" in node.cut:
            return
        entry = await node.do("get", namespace="news", key=key)
        own = self.own[node.node, key]
        if entry is None:
            newer = [etag for etag, value in self.written[key].items() if etag >= own and value is None]
            assert newer or not own, f"{node.node} does not see its own {own} of {key}"
        else:
            assert entry.head.etag >= own
            assert entry.value == self.written[key][entry.head.etag]

    async def end(self) -> None:
        """Heal everything; then all see the same, the newest, and each write is somewhere."""
        for name in NODES:
            if name not in self.running:
                await self.start(name)
        nodes = [node for node, _ in self.running.values()]
        for node in nodes:
            node.cut.clear()
            node.deaf = False
        for node in nodes:
            await node.settled()
        for node in nodes:
            await node.synced("long", "nas")
        for key in KEYS:
            if not self.written[key]:
                continue
            newest = max(self.written[key])
            seen = [await node.get(key, "news") for node in nodes]
            assert seen == [self.written[key][newest]] * len(nodes), f"{key}: {seen}"
            kept = await nodes[0].memory.parts.places.all[-1].tier.history(namespace="news", key=key)
            assert {one.version for one in kept} == set(self.written[key])


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "get", "get", "cut", "heal", "restart", "settle"]),
        st.sampled_from(NODES),
        st.sampled_from(KEYS),
    ),
    min_size=3,
    max_size=25,
)


def play(root: Path, given_steps: list[Step], *, hot: bool) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            story = History(World(root), hot, tasks)
            for name in NODES:
                await story.start(name)
            for step in given_steps:
                await story.step(step)
            await story.end()
            for name in list(story.running):
                await story.stop(name)

    anyio.run(main)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("near", ["nothing", "hot"])
def test_nothing_vanishes_nothing_old_comes_back_and_all_agree_in_the_end(near: str) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True, phases=PHASES, suppress_health_check=list(HealthCheck))
    @given(steps)
    @example([("put", "a", "k0"), ("cut", "b", "k1"), ("put", "b", "k0"), ("delete", "a", "k0"), ("heal", "b", "k0")])
    @example([("cut", "a", "k0"), ("put", "a", "k0"), ("put", "c", "k0"), ("restart", "a", "k0"), ("get", "a", "k0")])
    def stories(given_steps: list[Step]) -> None:
        with short_folder() as folder:
            play(folder, given_steps, hot=near == "hot")

    stories()


def test_the_home_keeps_its_memory_while_the_cloud_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with world.node("c", site="cloud").running() as cloud, world.node("a").running() as home:
            for number in range(50):
                await cloud.put(f"k{number}", b"%d" % number, "news")
            await cloud.put("large", bytes(300_000), "news")
            await cloud.settled()
            await home.synced("long")
            home.cut.add("long")
            for number in range(50):
                assert await home.get(f"k{number}", "news") == b"%d" % number
            assert await home.get("large", "news") == bytes(300_000)
            page = await home.do("list_", namespace="news", limit=100)
            assert len(page.heads) == 51

    anyio.run(main)


def test_a_change_elsewhere_reaches_the_hot_copies_here(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with world.node("c", site="cloud").running() as cloud, world.node("a", hot=True).running() as home:
            await cloud.put("k", b"one", "news")
            assert await home.get("k", "news") == b"one"
            await cloud.put("k", b"two", "news")
            with anyio.fail_after(5):
                while await home.get("k", "news") != b"two":
                    await anyio.sleep(0.01)
            await cloud.do("delete", namespace="news", key="k")
            with anyio.fail_after(5):
                while await home.get("k", "news") is not None:
                    await anyio.sleep(0.01)
            assert not any(b"two" in str(event).encode() or "'k'" in str(event) for event in cloud.said)

    anyio.run(main)


def test_memory_is_whole_again_from_tier_three_when_the_nearer_ones_are_lost(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with world.node("a").running() as home:
            for number in range(40):
                await home.put(f"k{number}", b"%d" % number, "news", tags=["t"])
            await home.put("large", bytes(300_000), "news")
            await home.do("delete", namespace="news", key="k7")
            await home.settled()
        (tmp_path / "nas-home").rename(tmp_path / "burnt")
        (tmp_path / "a").rename(tmp_path / "burnt-too")
        async with world.node("a").running() as home:
            await home.synced("long")
            home.cut.add("long")
            page = await home.do("list_", namespace="news", tags=["t"], limit=100)
            assert len(page.heads) == 39
            assert await home.get("k39", "news") == b"39"
            assert await home.get("large", "news") == bytes(300_000)
            assert await home.get("k7", "news") is None

    anyio.run(main)


def test_a_tier_three_that_was_lost_is_filled_again_from_the_home(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with world.node("a").running() as home:
            for number in range(40):
                await home.put(f"k{number}", b"%d" % number, "news")
            await home.put("large", bytes(300_000), "news")
            await home.put("private", b"x")
            await home.settled()
            await home.synced("long", "nas")
        for path in [*tmp_path.glob("long.db*"), tmp_path / "objects"]:
            path.rename(tmp_path / f"burnt-{path.name}")
        async with world.node("a").running() as home:
            await home.synced("long")
        async with world.node("c", site="cloud").running() as cloud:
            await cloud.synced("long")
            assert await cloud.get("k39", "news") == b"39"
            assert await cloud.get("large", "news") == bytes(300_000)
            assert len((await cloud.do("list_", namespace="news", limit=100)).heads) == 41
            assert (await cloud.do("list_", namespace="plans", limit=100)).heads == []

    anyio.run(main)


def test_a_node_that_was_away_for_too_long_brings_nothing_back_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        world = World(tmp_path)
        async with world.node("a").running() as home:
            for key in ("gone", "stays", "mine"):
                await home.put(key, b"old", "news")
            await home.settled()
            await home.synced("long", "nas")
            home.cut.add("long")
            await home.put("gone", b"written offline", "news")  # and never poured until it is back
        async with world.node("c", site="cloud").running() as cloud:
            await cloud.do("delete", namespace="news", key="gone")
            await cloud.settled()
            parts = cloud.memory.parts
            place = parts.places.all[-1]
            later = clock.floor_of(clock.wall_ms() + 1000)
            await place.tier.sweep(
                now_ms=clock.wall_ms(), tombstones_before=later, history_before=later, history_most=10, scrub=0
            )
            assert await cloud.do("list_", namespace="news") is not None
        month_ms = 31 * 86_400_000
        usual = clock.wall_ms
        monkeypatch.setattr(clock, "wall_ms", lambda: usual() + month_ms)
        monkeypatch.setattr(clock.VersionClock.__init__, "__kwdefaults__", {"after": "", "wall": clock.wall_ms})
        async with world.node("a").running() as home:
            assert home.memory.parts.pouring.held or home.memory.syncing.rounds
            await home.synced("long", "nas")
            await home.settled()
            assert await home.get("gone", "news") is None
            assert await home.get("stays", "news") == b"old"
            kept = await home.do("history", namespace="news", key="gone")
            assert any(not head.deleted for head in kept)  # what was written offline is kept, as history
            assert any("resynchronising" in str(line) for line in home.log.lines)

    anyio.run(main)


def test_what_is_local_reaches_no_other_site_whatever_is_done_with_it(tmp_path: Path) -> None:
    secret = "Zanzibar-4711"

    async def main() -> None:
        world = World(tmp_path)
        async with world.node("c", site="cloud").running() as cloud, world.node("a", hot=True).running() as home:
            for namespace in ("plans", "pin"):
                await home.put(secret, secret.encode(), namespace, content_type="text/plain", tags=[secret])
                await home.put("large", (secret * 10_000).encode(), namespace, content_type="text/plain")
                await home.do("search", text=secret, namespaces=[namespace])
                await home.get(secret, namespace)
                await home.do("invalidate", namespace=namespace, tag=secret)
                await home.do("delete", namespace=namespace, key=secret)
            await home.settled()
            await home.synced("nas", "long")
            await cloud.synced("nas", "long")
            told = str(home.said) + str(home.log.lines) + str(home.states)
            assert secret not in told
            assert secret not in generate_latest(home.metrics).decode()
            held = {one.name: one.records for one in (await cloud.do("stats")).namespaces}
            assert not held["plans"]

    anyio.run(main)
    far = list(tmp_path.glob("long.db*"))
    for folder in ("objects", "c", "nas-cloud"):
        far += (tmp_path / folder).rglob("*")
    for path in far:
        assert secret not in path.name
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
