"""The memory of several real daemons: a home and a cloud over the link, a site with one NAS, a drop-in for a tier."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sparkd.link.keys import KeyStore
from sparkd.testing import Node, free_port, short_folder
from tests.system.test_budgets import node
from tests.system.test_memory_node import CONFIG, get, put
from tests.system.test_sparkctl import Ctl
from tests.system.watching import runs, until

pytestmark = pytest.mark.timeout(180)
MEMORY = CONFIG.replace("through_s = 5.0", "through_s = 5.0\nsync_s = 600.0")
"""What one node writes, others do not find by looking now and then: they are told."""
HERE = """
[node]
name = "{name}"
site = "{site}"
metrics_listen = ""
[link]
listen = "127.0.0.1:{port}"
"""
PEER = """
[link.peers.{name}]
{address}
site = "{site}"
send = ["system"]
receive = ["system"]
calls = [{calls}]
"""


@dataclass
class Nodes:
    """Two daemons that are linked."""

    one: Node
    other: Node

    def start(self) -> None:
        for each in (self.one, self.other):
            each.start()
            runs(each, "nas-tier")


@contextmanager
def linked(one: tuple[str, str, str], other: tuple[str, str, str], *, calls: str = "") -> Iterator[Nodes]:
    """Prepare two nodes, each a name, a site and tables; the first may make *calls* of the second."""
    with short_folder() as root:
        port, ports = free_port(), (free_port(), 0)
        ports = (ports[0], port)
        made: list[Node] = []
        for at, (mine, theirs) in enumerate(((one, other), (other, one))):
            address = f'address = "127.0.0.1:{port}"' if at == 0 else ""
            text = HERE.format(name=mine[0], site=mine[1], port=ports[at])
            text += PEER.format(name=theirs[0], site=theirs[1], address=address, calls=calls if at else "")
            made.append(Node(mine[0], root / mine[0], text + mine[2]).prepare())
        keys = [KeyStore(each.state / "keys") for each in made]
        public = [each.new() for each in keys]
        keys[0].trust(other[0], public[1])
        keys[1].trust(one[0], public[0])
        try:
            yield Nodes(*made)
        finally:
            for each in made:
                each.stop()


def shipped(at: Node) -> bool:
    """Whether no tier waits for a write of this node."""
    return all(not tier["behind"] for tier in at.call("memory.stats")["tiers"])


def test_a_home_keeps_its_shared_memory_in_the_cloud_over_the_link_and_nothing_else(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(random.Random(2).randbytes(3_000_000))
    with short_folder() as nas, short_folder() as theirs:
        home = MEMORY.format(nas=nas).replace("sync_s", 'long_by = "cloud"\nsync_s')
        cloud = MEMORY.format(nas=theirs).replace("sync_s", 'provides = "long"\nsync_s')
        with linked(("home", "home", home), ("cloud", "cloud", cloud), calls='"tier.*"') as nodes:
            nodes.start()
            secret = b"Zanzibar-4711"
            put(nodes.one, "secret", secret, "plans")
            put(nodes.one, "weather", b"rain")
            assert Ctl(nodes.one).json("memory", "put", "news", "film", "--file", str(film))["won"]
            until(lambda: shipped(nodes.one), bool, limit_s=20)
            until(lambda: get(nodes.other, "weather"), lambda value: value == b"rain")
            out = tmp_path / "out"
            assert Ctl(nodes.other)("memory", "get", "news", "film", "--out", str(out)).returncode == 0
            assert out.read_bytes() == film.read_bytes()
            assert get(nodes.other, "secret", "plans") is None

            put(nodes.other, "weather", b"sun")
            until(lambda: get(nodes.one, "weather"), lambda value: value == b"sun")

            nodes.other.kill()
            for number in range(20):
                pending = put(nodes.one, f"k{number}", b"%d" % number)["pending"]
                assert isinstance(pending, list)
                assert "long" in pending
            assert get(nodes.one, "k7") == b"7"
            nodes.other.start()
            runs(nodes.other, "nas-tier")
            until(lambda: shipped(nodes.one), bool, limit_s=60)
            until(lambda: [get(nodes.other, f"k{number}") for number in range(20)], all)

            nodes.other.stop()
            files = [*nodes.other.root.rglob("*"), *Path(theirs).rglob("*")]
            for file in filter(Path.is_file, files):
                assert secret not in file.read_bytes(), file


def test_what_one_node_of_a_site_writes_the_other_sees_at_once_also_if_it_had_a_copy() -> None:
    with short_folder() as nas:
        tables = MEMORY.format(nas=nas)
        with linked(("one", "home", tables), ("other", "home", tables)) as nodes:
            nodes.start()
            put(nodes.one, "k", b"first", "plans")
            until(lambda: get(nodes.other, "k", "plans"), lambda value: value == b"first")
            assert get(nodes.other, "k", "plans") == b"first"  # hot there now
            for number in range(10):
                put(nodes.one, "k", b"%d" % number, "plans")
                until(lambda: get(nodes.other, "k", "plans"), (b"%d" % number).__eq__, limit_s=10)
            nodes.one.call("memory.delete", namespace="plans", key="k")
            until(lambda: get(nodes.other, "k", "plans"), lambda value: value is None, limit_s=10)


SHELF = '''
"""A tier in the memory of a process: the least that one can be."""
from dataclasses import dataclass
from uuid import uuid4

import anyio

from sparkd import CallError, CallErrorKind, Context, Service, hookimpl
from sparkd import Tier, TierAbout, TierChanges, TierPut, TierSwept


class Shelf:
    def __init__(self):
        self.ident, self.records, self.blobs, self.order = uuid4().hex, {}, {}, []

    async def about(self):
        return TierAbout(ident=self.ident, kind="shelf", records=len(self.records))

    async def get(self, *, namespace, key):
        return self.records.get((namespace, key))

    async def put(self, *, record):
        place = record.namespace, record.key
        known = self.records.get(place)
        if known is not None and known.version >= record.version:
            return TierPut(outcome="same" if known.version == record.version else "older", winner=known.version)
        self.records[place] = record
        self.order.append(record)
        return TierPut(outcome="stored", winner=record.version)

    async def cas(self, *, record, etag):
        known = self.records.get((record.namespace, record.key))
        now = "" if known is None or known.deleted else known.version
        if now != etag:
            return TierPut(outcome="older", winner=now)
        return await self.put(record=record)

    async def history(self, *, namespace, key):
        return [one for one in reversed(self.order) if (one.namespace, one.key) == (namespace, key)]

    async def changes(self, *, cursor="", limit=500, whole=False):
        begin = int(cursor or 0)
        found = self.order[begin:begin + limit]
        end = begin + len(found)
        return TierChanges(records=found, cursor=str(end), more=end < len(self.order))

    async def has(self, *, digest):
        return digest in self.blobs

    async def read(self, *, digest, offset=0, length=None):
        if digest not in self.blobs:
            raise CallError(CallErrorKind.FAILED, "no such blob", error="missing")
        value = self.blobs[digest][offset:None if length is None else offset + length]
        for begin in range(0, len(value), 1 << 18):
            yield value[begin:begin + (1 << 18)]

    async def write(self, *, digest, size, chunks):
        self.blobs[digest] = b"".join([chunk async for chunk in chunks])

    async def search(self, *, namespaces, tags, content_types, now_ms, text="", vector=b"", model="", limit=10):
        return []

    async def drop(self, *, namespace, keys):
        return 0

    async def sweep(self, *, now_ms, tombstones_before, history_before, history_most, scrub):
        return TierSwept()


@dataclass
class Nothing:
    pass


async def run(ctx: Context[Nothing], *, task_status) -> None:
    await ctx.serve(Tier, Shelf())
    task_status.started()
    await anyio.sleep_forever()


@hookimpl
def sparkd_services():
    return [Service(name="shelf", config=Nothing, run=run, serves=(Tier,))]
'''


SHELVED = """
[plugins.shelf]
[plugins.nas-tier.tiers.shelf]
service = "shelf"
level = 2
reach = "local"
"""


def test_a_drop_in_is_a_tier_like_any_other() -> None:
    value = random.Random(3).randbytes(400_000)
    with short_folder() as nas:
        tables = (
            MEMORY.format(nas=nas) + '\n[plugins.nas-tier.tiers.shelf]\nservice = "shelf"\nlevel = 2\nreach = "local"\n'
        )
        with node(tables + "[plugins.shelf]\n") as home:
            (home.plugins / "shelf.py").write_text(SHELF)
            home.start()
            runs(home, "nas-tier")
            runs(home, "shelf")
            put(home, "large", value, "plans")
            put(home, "small", b"small", "plans")
            until(lambda: shipped(home), bool, limit_s=20)
            assert "shelf" in {tier["name"] for tier in home.call("memory.stats")["tiers"]}
            on_it = home.call("shelf:tier.get", namespace="plans", key="small")
            assert base64.b64decode(on_it["value"]) == b"small"
            assert home.call(
                "shelf:tier.has", digest=home.call("shelf:tier.get", namespace="plans", key="large")["digest"]
            )

            home.call("plugins.stop", name="shelf")  # it has forgotten everything when it comes back
            put(home, "later", b"later", "plans")
            assert get(home, "small", "plans") == b"small"
            home.call("plugins.start", name="shelf")
            until(lambda: shipped(home), bool, limit_s=30)
            for key in ("later", "small", "large"):
                on_it = until(partial(home.call, "shelf:tier.get", namespace="plans", key=key), bool)
            until(lambda: home.call("shelf:tier.has", digest=on_it["digest"]), bool)
