"""One of each privacy class by every way out of a node, to a peer at another site and to one at the same site.

Each carries a word of its own, `mark-WAY-CLASS`. What may not leave must not be found on the other node: not on its
bus, not in its store, and in no file beneath its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparkd.errors import CallError, CallErrorKind
from sparkd.testing import Pair, arrivals, prepare, running
from tests.system.watching import client, plugin, runs, scrape, until

EVENTS = """\
from typing import Protocol
from sparkd import Durability, Privacy, Record, encode_body, event, interface

@event("edge.live")
@dataclass(frozen=True, kw_only=True)
class Live:
    word: str

@event("edge.kept", durability=Durability.DURABLE)
@dataclass(frozen=True, kw_only=True)
class Kept:
    word: str

@event("edge.held", durability=Durability.STATE)
@dataclass(frozen=True, kw_only=True)
class Held:
    word: str

@interface("echo")
class Echo(Protocol):
    async def echo(self, *, word: str) -> str: ...

@interface("mouth")
class Mouth(Protocol):
    async def node(self) -> str: ...
    async def local(self) -> str: ...
    async def shared(self) -> str: ...
    async def tell(self, *, word: str) -> str: ...

class Speaking:
    def __init__(self, ctx):
        self.ctx = ctx

    async def node(self):
        return await self.say(Privacy.NODE)

    async def local(self):
        return await self.say(Privacy.LOCAL)

    async def shared(self):
        return await self.say(Privacy.SHARED)

    async def say(self, privacy):
        return await self.ctx.call(Echo, node="primecore", privacy=privacy).echo(word="mark-call-" + privacy.label)

    async def tell(self, *, word):
        return word

class Hearing:
    def __init__(self, file):
        self.file = file

    async def echo(self, *, word):
        with self.file.open("a") as out:
            out.write(word + "\\n")
        return word
"""
SOURCE = """\
await ctx.serve(Mouth, Speaking(ctx))
async with ctx.outbox.writer("raw") as writer:
    for c in Privacy:
        await ctx.bus.publish(Kept(word="mark-durable-" + c.label), privacy=c)
        await ctx.bus.publish(Held(word="mark-state-" + c.label), privacy=c, topic="edge.held." + c.label)
        for way, size in (("record", 10), ("dead", 600_000)):
            body = encode_body({"word": f"mark-{way}-{c.label}", "rest": "x" * size})
            await writer.append([Record(topic="edge.raw", body=body, privacy=c)])
    task_status.started()
    while True:
        for c in Privacy:
            await ctx.bus.publish(Live(word="mark-live-" + c.label), privacy=c)
        await anyio.sleep(0.05)"""
EAR = """\
await ctx.serve(Echo, Hearing(ctx.state_dir / "heard"))
task_status.started()
await anyio.sleep_forever()"""
CLASSES = ("node", "local", "shared")
PASSING = ("live", "state", "durable", "record")


@dataclass
class Side:
    """Two linked nodes, and which classes may pass between them."""

    pair: Pair
    may_pass: tuple[str, ...]

    @property
    def may_not(self) -> list[str]:
        return [c for c in CLASSES if c not in self.may_pass]


@pytest.fixture(params=["other-site", "same-site"])
def side(folder: Path, request: pytest.FixtureRequest) -> Iterator[Side]:
    same = request.param == "same-site"
    pair = prepare(folder)
    head, _, rest = pair.edge.config.partition("[plugins.hailo-inference]")
    edge = head + "[plugins.cloud-uplink]" + rest.partition("[plugins.cloud-uplink]")[2]
    edge = edge.replace('commands_allow = ["node.status"]', 'commands_allow = ["mouth.tell"]')
    cloud = pair.cloud.config.replace('"node.status", "ingest', '"node.status", "echo.echo", "ingest')
    if same:
        edge = edge.replace('site = "cloud"', 'site = "home"') + 'target_site = "home"\n'
        cloud = cloud.replace('site = "cloud"', 'site = "home"')
        cloud = cloud.replace("[plugins.edge-ingest]", '[plugins.edge-ingest]\nsame_site_nodes = ["control-pc"]')
    pair.edge.config_file.write_text(edge)
    pair.cloud.config_file.write_text(cloud)
    offer = "serves=(Mouth,), publishes=(Live, Kept, Held)"
    (pair.edge.plugins / "source.py").write_text(plugin(SOURCE, name="source", more=EVENTS, offer=offer))
    (pair.cloud.plugins / "ear.py").write_text(
        plugin(EAR, name="ear", more=EVENTS, offer="serves=(Echo,), publishes=(Held,)")
    )
    with running(pair):
        runs(pair.cloud, "ear")
        runs(pair.edge, "source")
        yield Side(pair, ("local", "shared") if same else ("shared",))


def found_in(folder: Path, word: str) -> list[str]:
    """Return the files beneath *folder* that hold *word*, the plugins' own texts apart."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".py"]
    return [str(file) for file in files if word.encode() in file.read_bytes()]


def refused(pair: Pair) -> dict[str, int]:
    (link,) = pair.edge.call("node.status")["links"]
    return dict(link["refused"])


def test_by_no_way_out_leaves_what_may_not(side: Side) -> None:
    pair, cloud = side.pair, side.pair.cloud
    seen = live_words(pair, side.may_pass)
    for way in ("durable", "record"):
        for c in side.may_pass:
            until(lambda word=f"mark-{way}-{c}": found_in(cloud.state / "plugins" / "stream-sink", word), bool)  # type: ignore[misc] # binds
    for c in side.may_pass:
        assert pair.edge.call(f"mouth.{c}") == f"mark-call-{c}"
    for c in side.may_not:
        with pytest.raises(CallError) as denied:
            pair.edge.call(f"mouth.{c}")
        assert denied.value.kind is CallErrorKind.DENIED
        assert "privacy" in str(denied.value)

    states = {event["event"]["word"] for event in cloud.call("bus.last", topic="edge.held")}
    assert states == {f"mark-state-{c}" for c in side.may_pass}
    assert {f"mark-live-{c}" for c in side.may_pass} <= seen
    for way in (*PASSING, "call", "dead"):
        for c in side.may_not:
            assert f"mark-{way}-{c}" not in seen
            assert found_in(cloud.root, f"mark-{way}-{c}") == []


def live_words(pair: Pair, may_pass: tuple[str, ...]) -> set[str]:
    """Return every word on the cloud's bus while some fifty live events come."""
    words: set[str] = set()
    with client(pair.cloud) as connection:
        events = connection.results("bus.subscribe", {"topics": ["edge"]})
        for _ in range(30 * len(may_pass)):
            event: Any = next(events)["event"]
            words.add(event.get("word", "") if isinstance(event, dict) else "")
    return words


def test_what_may_not_leave_is_counted(side: Side) -> None:
    pair = side.pair
    metrics = pair.edge.config.partition('metrics_listen = "')[2].partition('"')[0]
    for c in side.may_not:
        counts = until(lambda: refused(pair), lambda found, c=c: f"send edge.live: privacy {c}" in found)  # type: ignore[misc] # binds
        assert counts[f"send edge.held.{c}: privacy {c}"] >= 1
    # Of each stream: one record of each class that may not leave; in `raw` there is also the one that is too large.
    kept, raw = len(side.may_not), 2 * len(side.may_not)
    for stream, count in (("source/events", kept), ("source/raw", raw)):
        line = f'{{reason="privacy",service="cloud-uplink",stream="{stream}"}} {count}.0'
        until(lambda: scrape(metrics), lambda text, line=line: line in text)  # type: ignore[misc] # binds


def test_dead_letters_stay_where_they_are(side: Side) -> None:
    pair = side.pair
    letters = until(
        lambda: pair.edge.call("outbox.dead", service="source", stream="raw"),
        lambda found: len(found) == len(side.may_pass),
    )
    assert {letter["reader"] for letter in letters} != set()
    assert all("oversize" in letter["reason"] for letter in letters)
    for c in CLASSES:
        assert found_in(pair.cloud.root, f"mark-dead-{c}") == []
    assert arrivals(pair.database) == []


@pytest.mark.parametrize("privacy", ["local", "shared"])
def test_commands_and_their_results_keep_to_their_class(side: Side, privacy: str) -> None:
    pair, word = side.pair, f"mark-command-{privacy}"
    given = {"target": "control-pc", "privacy": privacy, "expires_s": 30}
    (link,) = pair.cloud.call("node.status")["links"]
    assert link["connected"]
    with client(pair.cloud) as connection:
        command = connection.call("commands.send", {**given, "method": "mouth.tell", "params": {"word": word}})
    status = until(
        lambda: pair.cloud.call("commands.status", command_id=command),
        lambda s: s["state"] not in ("pending", "delivered"),
    )

    if privacy in side.may_pass:
        assert (status["state"], status["result"]) == ("done", word)
    else:
        assert status["state"] == "failed"
        assert "privacy" in status["error"]
        assert found_in(pair.edge.root, word) == []


def test_a_command_for_another_node_is_never_of_class_node(side: Side) -> None:
    with client(side.pair.cloud) as connection, pytest.raises(CallError) as refusal:
        connection.call("commands.send", {"target": "control-pc", "method": "mouth.tell", "privacy": "node"})

    assert refusal.value.kind is CallErrorKind.INVALID_PARAMS
