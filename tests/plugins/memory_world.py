"""Nodes with a memory in one process: those of a site share a folder for a NAS, all share a tier 3; each can be cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from sparkd import CallError, CallErrorKind, CallInfo, Context, MemoryChanged, Privacy, Received, Tier
from sparkd.calls.current import answering
from sparkd.codec import Header
from sparkd.outbox import DiskOutbox, Limits
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.answers import Answers
from sparkd_plugins.nas_tier.config import NasTierConfig
from sparkd_plugins.nas_tier.directory_config import DirectoryConfig
from sparkd_plugins.nas_tier.long_config import LongConfig
from sparkd_plugins.nas_tier.namespaces import NamespaceConfig
from sparkd_plugins.nas_tier.service import OpenedMemory, opened
from sparkd_plugins.nas_tier.valkey_config import ValkeyConfig

SPACES = {
    "plans": NamespaceConfig(),
    "news": NamespaceConfig(privacy="shared"),
    "pin": NamespaceConfig(privacy="node"),
}


class CutTier:
    """A tier that does not answer while it is cut off from this node."""

    def __init__(self, tier: Tier, name: str, node: MemoryNode) -> None:
        self._tier, self._name, self._node = tier, name, node

    def __getattr__(self, method: str) -> Any:
        deed = getattr(self._tier, method)
        if method == "read":
            return lambda **given: self._read(deed, given)

        async def call(**given: Any) -> Any:
            self._check()
            self._node.asked[self._name, method] += 1
            answer = await deed(**given)
            self._check()  # cut before its answer was here
            return answer

        return call

    async def _read(self, deed: Any, given: dict[str, Any]) -> AsyncIterator[bytes]:
        self._check()
        self._node.asked[self._name, "read"] += 1
        async for chunk in deed(**given):
            self._check()
            yield chunk

    def _check(self) -> None:
        if self._name in self._node.cut:
            raise CallError(CallErrorKind.UNAVAILABLE, f"{self._name} is cut off")


class _Told:
    """A subscription."""

    lost = dropped = malformed = 0

    def __init__(self, receive: Any) -> None:
        self._receive = receive

    def __aiter__(self) -> _Told:
        return self

    async def __anext__(self) -> Any:
        return await self._receive.__anext__()


@dataclass
class MemoryNode:
    """One node: the context that the service gets, and what a test does to it."""

    world: World
    node: str
    site: str
    config: NasTierConfig
    log: Lines = field(default_factory=Lines)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    cut: set[str] = field(default_factory=set)
    """Tiers that are cut off."""
    deaf: bool = False
    """Whether it hears nothing of the others."""
    asked: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    said: list[MemoryChanged] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    memory: OpenedMemory = field(init=False)
    answers: Answers = field(init=False)
    feeds: list[Any] = field(default_factory=list)
    calls: dict[str, Any] = field(default_factory=dict)
    embedder: Any = None
    _end: anyio.Event = field(init=False)

    @property
    def state_dir(self) -> Path:
        return self.world.root / self.node

    @property
    def node_id(self) -> str:
        return f"{sum(self.node.encode()):032x}"

    @property
    def outbox(self) -> DiskOutbox:
        return DiskOutbox(
            self.state_dir / "outbox",
            node_id=self.node_id,
            service="nas-tier",
            limits=Limits(),
            clock_is_synchronised=lambda: True,
        )

    @property
    def bus(self) -> MemoryNode:
        return self

    async def publish(self, event: MemoryChanged, *, privacy: Privacy, **_: object) -> None:
        self.said.append(event)
        header = Header(1, self.node, "nas-tier", 1, 0, 0, 0, privacy, None)
        for other in self.world.nodes.values():
            reaches = privacy is Privacy.SHARED or other.site == self.site
            if other is not self and reaches and not other.deaf and not self.deaf:
                for feed in other.feeds:
                    with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # it is just ending
                        feed.send_nowait(Received("system.memory.changed", header, event))

    @asynccontextmanager
    async def subscribe(self, what: object, **_: object) -> AsyncIterator[_Told]:
        send, receive = anyio.create_memory_object_stream[Any](10_000)
        heard = what is MemoryChanged  # of links, there are none
        if heard:
            self.feeds.append(send)
        with send, receive:
            yield _Told(receive)
        if heard:
            self.feeds.remove(send)

    def call(self, _interface: object, **_: object) -> Any:
        if self.embedder is not None:
            return self.embedder
        raise CallError(CallErrorKind.UNAVAILABLE, "nobody embeds here")

    async def request(self, method: str, params: dict[str, Any] | None = None, **_: object) -> Any:
        return await self.calls[method](**(params or {}))

    async def serve(self, _interface: object, _handler: object) -> None:
        return

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        self.states.append("")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MemoryNode]:
        """Run the service, with its tiers behind what cuts them."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.metrics = CollectorRegistry()
        async with opened(cast("Context[NasTierConfig]", self)) as memory, anyio.create_task_group() as tasks:
            for place in memory.parts.places.all:
                place.tier = cast("Tier", CutTier(place.tier, place.name, self))
                place.breaker.least_s, place.breaker.most_s = 0.02, 0.1
            self.memory, self.answers = memory, Answers(memory.parts)
            await memory.start(tasks)
            yield self
            tasks.cancel_scope.cancel()

    async def live(self, ended: anyio.Event, *, task_status: TaskStatus[MemoryNode]) -> None:
        """Run until told to end: in a task of its own, so that nodes may end in any order."""
        async with self.running():
            self._end = anyio.Event()
            task_status.started(self)
            await self._end.wait()
        ended.set()

    async def end(self, ended: anyio.Event) -> None:
        """End it, and wait for that."""
        self._end.set()
        await ended.wait()

    async def do(self, method: str, *, caller: str = "test", away: str = "", **given: Any) -> Any:
        """Call a method of `memory`, as a local service or as one on the node *away*."""
        privacy = Privacy.SHARED if away else Privacy.LOCAL
        with answering(CallInfo(f"memory.{method}", caller, away or self.node, privacy, None, 10.0)):
            return await getattr(self.answers, method)(**given)

    async def put(self, key: str, value: bytes, namespace: str = "plans", **more: Any) -> Any:
        return await self.do("put", namespace=namespace, key=key, value=value, **more)

    async def get(self, key: str, namespace: str = "plans", **more: Any) -> bytes | None:
        entry = await self.do("get", namespace=namespace, key=key, **more)
        return None if entry is None else entry.value

    async def settled(self, limit_s: float = 20.0) -> None:
        """Wait until every tier that is not cut off has all writes."""
        with anyio.fail_after(limit_s):
            for name, lane in self.memory.parts.pouring.lanes.items():
                if name not in self.cut:
                    await lane.reached(self.memory.journal.tail)

    async def synced(self, *names: str, limit_s: float = 20.0) -> None:
        """Wait until tiers were looked through once more, from now on."""
        syncing = self.memory.syncing
        before = {name: syncing.rounds.get(name, 0) for name in names}
        with anyio.fail_after(limit_s):
            for name in names:
                while syncing.rounds.get(name, 0) < before[name] + 2:  # one may be under way
                    syncing.tell(name)
                    await anyio.sleep(0.02)


@dataclass
class World:
    """All nodes, in a folder."""

    root: Path
    nodes: dict[str, MemoryNode] = field(default_factory=dict)

    def node(self, name: str, *, site: str = "home", hot: bool = False, **config: Any) -> MemoryNode:
        """Add a node."""
        settings: dict[str, Any] = {
            "hot": ValkeyConfig(max_bytes=16 << 20, timeout_s=2.0),
            "hot_enabled": hot,
            "nas": DirectoryConfig(path=self.root / f"nas-{site}", free_least_bytes=0),
            "long": LongConfig(records=str(self.root / "long.db"), objects=f"file://{self.root / 'objects'}"),
            "namespaces": SPACES,
            "sync_s": 600.0,
            "through_s": 5.0,
        }
        made = MemoryNode(self, name, site, NasTierConfig(**{**settings, **config}))
        self.nodes[name] = made
        return made


@asynccontextmanager
async def world(root: Path, *names: str, **config: Any) -> AsyncIterator[list[MemoryNode]]:
    """Run nodes of one site."""
    made = World(root)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(made.node(name, **config).running()) for name in names]
