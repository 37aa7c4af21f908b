"""One node's memory, whole, over real tiers: a Valkey, a folder, SQLite and a folder of objects."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import CallError, CallInfo, MemoryOperation, MemoryRecord, Privacy
from sparkd.calls.current import answering
from sparkd_plugins.nas_tier.catalogue import Catalogue
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.journal import open_journal
from sparkd_plugins.nas_tier.namespaces import NamespaceConfig
from tests.plugins.memory_world import SPACES, MemoryNode, World, world

Test = Callable[[MemoryNode], Awaitable[None]]


def run(root: Path, test: Test, **config: Any) -> None:
    async def main() -> None:
        async with world(root, "home", **config) as (node,):
            await test(node)

    anyio.run(main)


async def chunks(value: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(value), size):
        yield value[begin : begin + size]


@pytest.mark.parametrize("namespace", ["plans", "news", "pin"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1 << 20])
def test_what_was_put_is_what_is_got(tmp_path: Path, namespace: str, size: int) -> None:
    value = random.Random(size).randbytes(size)

    async def test(node: MemoryNode) -> None:
        written = await node.put("k", value, namespace, content_type="image/png", tags=["b", "a"])
        assert written.won
        assert written.tiers or namespace == "pin", written
        await node.settled()
        entry = await node.do("get", namespace=namespace, key="k")
        assert entry.value == value
        assert entry.head.etag == written.etag
        assert (entry.head.content_type, entry.head.tags, entry.head.size) == ("image/png", ["a", "b"], size)
        assert b"".join([part async for part in await_read(node, namespace, "k")]) == value

    run(tmp_path, test, hot=True)


def await_read(node: MemoryNode, namespace: str, key: str, **more: Any) -> AsyncIterator[bytes]:

    async def read() -> AsyncIterator[bytes]:
        with answering(CallInfo("memory.read", "test", node.node, Privacy.LOCAL, None, 10.0)):
            async for part in node.answers.read(namespace=namespace, key=key, **more):
                yield part

    return read()


def test_a_large_value_is_streamed_and_read_in_parts(tmp_path: Path) -> None:
    value = random.Random(3).randbytes(5_000_000)

    async def test(node: MemoryNode) -> None:
        written = await node.do("write", namespace="news", key="film", chunks=chunks(value))
        entry = await node.do("get", namespace="news", key="film")
        assert entry.value is None
        assert entry.head.size == len(value)
        assert b"".join([part async for part in await_read(node, "news", "film")]) == value
        assert (
            b"".join([part async for part in await_read(node, "news", "film", offset=4_000_000, length=7)])
            == value[4_000_000:4_000_007]
        )
        await node.settled()
        with anyio.fail_after(5):
            while list((node.state_dir / "spool").iterdir()):  # it goes right after
                await anyio.sleep(0.01)
        assert written.etag == entry.head.etag

    run(tmp_path, test)


def test_each_class_of_privacy_stands_where_it_may_and_nowhere_else(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        for namespace in ("plans", "news", "pin"):
            await node.put("k", f"secret of {namespace}".encode(), namespace, content_type="text/plain")
        await node.settled()

    run(tmp_path, test)

    def found(folder: str, words: str) -> bool:
        return any(words.encode() in path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file())

    def in_long(words: str) -> bool:
        return any(words.encode() in path.read_bytes() for path in tmp_path.glob("long.db*")) or found("objects", words)

    assert [found("nas-home", f"secret of {name}") for name in ("plans", "news", "pin")] == [True, True, False]
    assert [in_long(f"secret of {name}") for name in ("plans", "news", "pin")] == [False, True, False]
    assert found("home/own", "secret of pin")


def test_a_deleted_key_is_gone_everywhere_and_its_history_tells(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        first = await node.put("k", b"one", "news")
        second = await node.put("k", b"two", "news")
        gone = await node.do("delete", namespace="news", key="k")
        assert await node.get("k", "news") is None
        kept = await node.do("history", namespace="news", key="k")
        assert [head.etag for head in kept] == [gone.etag, second.etag, first.etag]
        assert [head.deleted for head in kept] == [True, False, False]
        assert (await node.do("list_", namespace="news")).heads == []

    run(tmp_path, test, hot=True)


def test_values_end_when_their_time_is_over(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("k", b"short", ttl_s=0.2)
        assert await node.get("k") == b"short"
        await node.do("touch", namespace="plans", key="k", ttl_s=0.6)
        await anyio.sleep(0.3)
        assert await node.get("k") == b"short"
        await anyio.sleep(0.4)
        assert await node.get("k") is None
        assert (await node.do("list_", namespace="plans")).heads == []

    run(tmp_path, test, hot=True)


def test_lists_go_by_prefix_and_tags_in_pages(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        operations = [
            MemoryOperation(
                op="put", namespace="plans", key=f"a/{n:03}", value=b"x", tags=["even"] if n % 2 == 0 else []
            )
            for n in range(25)
        ]
        done = await node.do(
            "batch", operations=[*operations, MemoryOperation(op="put", namespace="plans", key="b", value=b"")]
        )
        assert not [outcome.error for outcome in done if outcome.error]
        keys: list[str] = []
        cursor = ""
        while True:
            page = await node.do("list_", namespace="plans", prefix="a/", cursor=cursor, limit=10)
            keys += [head.key for head in page.heads]
            cursor = page.cursor
            if not cursor:
                break
        assert keys == [f"a/{n:03}" for n in range(25)]
        even = await node.do("list_", namespace="plans", tags=["even"], limit=100)
        assert [head.key for head in even.heads] == [f"a/{n:03}" for n in range(0, 25, 2)]

    run(tmp_path, test)


def test_one_bad_operation_of_a_batch_stops_no_other(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        operations = [
            MemoryOperation(op="put", namespace="plans", key="a", value=b"1"),
            MemoryOperation(op="put", namespace="BAD", key="a", value=b"1"),
            MemoryOperation(op="get", namespace="plans", key="nothing"),
            MemoryOperation(op="touch", namespace="plans", key="nothing"),
            MemoryOperation(op="cas", namespace="plans", key="c", value=b"1"),
            MemoryOperation(op="cas", namespace="plans", key="c", value=b"1", etag="x"),
            MemoryOperation(op="delete", namespace="plans", key="nothing"),
        ]
        done = await node.do("batch", operations=operations)
        assert [bool(one.error) for one in done] == [False, True, False, True, False, True, False]
        assert await node.get("a") == b"1"
        assert await node.get("c") == b"1"

    run(tmp_path, test)


def test_of_many_who_count_by_cas_each_count_is_there(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("count", b"0", "news")

        async def count() -> None:
            while True:
                entry = await node.do("get", namespace="news", key="count", max_age_s=0.0)
                try:
                    await node.do(
                        "cas", namespace="news", key="count", value=b"%d" % (int(entry.value) + 1), etag=entry.head.etag
                    )
                except CallError as error:
                    if error.data["error"] != "conflict":
                        raise
                else:
                    return

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(count)
        assert await node.get("count", "news") == b"10"

    run(tmp_path, test, hot=True)


def test_a_condition_is_unavailable_while_its_home_is_cut_off_and_plain_writes_are_kept(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        first = await node.put("k", b"one", "news")
        node.cut.add("long")
        with pytest.raises(CallError, match="unavailable") as caught:
            await node.do("cas", namespace="news", key="k", value=b"two", etag=first.etag)
        assert "wait" in caught.value.data["remedy"]
        second = await node.put("k", b"two", "news")
        assert "long" in second.pending
        assert await node.get("k", "news") == b"two"
        node.cut.clear()
        await node.settled()
        third = await node.do("cas", namespace="news", key="k", value=b"three", etag=second.etag)
        assert third.won

    run(tmp_path, test, through_s=0.3)


def test_a_key_stays_on_its_way_while_an_older_write_of_it_is_noted_as_arrived(tmp_path: Path) -> None:
    """The order that lost it: appended, the older one noted and forgotten, and only then the newer one noted."""

    async def main() -> None:
        catalogue, arrived, appended = Catalogue(tmp_path / "c"), threading.Event(), threading.Event()
        note = catalogue.arrived

        def slowly(seq: int) -> list[str]:
            gone = note(seq)
            arrived.set()
            assert appended.wait(10)
            return gone

        catalogue.arrived = slowly  # type: ignore[method-assign] # what a slow disk does
        outbox = World(tmp_path).node("home").outbox
        async with open_journal(outbox, catalogue, most_bytes=1 << 20) as journal, anyio.create_task_group() as tasks:
            (first,), _ = await journal.append([written(1)])
            tasks.start_soon(journal.pass_to, first)
            await anyio.to_thread.run_sync(arrived.wait, 10)
            tasks.start_soon(journal.append, [written(2)])
            while journal.on_their_way.passed(first) and not journal.on_their_way.may_have("n", "k"):
                await anyio.sleep(0.001)
            appended.set()
        assert journal.on_their_way.may_have("n", "k")
        assert catalogue.pending("n", "k") == written(2)
        catalogue.close()

    anyio.run(main)


def written(number: int) -> MemoryRecord:
    return MemoryRecord(namespace="n", key="k", version=version_of(1_800_000_000_000 + number, 0, "a" * 32), value=b"v")


def test_of_a_thousand_misses_at_once_one_reaches_the_origin(tmp_path: Path) -> None:
    asked = 0

    async def make(key: str) -> str:
        nonlocal asked
        asked += 1
        await anyio.sleep(0.05)
        return f"made for {key}"

    async def test(node: MemoryNode) -> None:
        node.calls["maker.make"] = make
        got: list[bytes | None] = []

        async def ask() -> None:
            got.append(await node.get("k", "made"))

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(ask)
        assert got == [b"made for k"] * 1000
        assert asked == 1
        assert await node.get("k", "made") == b"made for k"
        assert asked == 1

    run(tmp_path, test, hot=True, namespaces={"made": NamespaceConfig(origin="maker.make")})


def test_a_quota_holds_what_stands_and_not_what_was_replaced(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("a", b"x" * 600, "small")
        await node.put("a", b"y" * 700, "small")
        with pytest.raises(CallError) as caught:
            await node.put("b", b"z" * 400, "small")
        assert caught.value.data["error"] == "quota"
        await node.do("delete", namespace="small", key="a")
        await node.put("b", b"z" * 400, "small")

    run(tmp_path, test, namespaces={"small": NamespaceConfig(quota_bytes=1000)})


def test_a_restarted_node_has_its_memory_and_pours_what_it_had_not_poured(tmp_path: Path) -> None:
    async def main() -> None:
        place = World(tmp_path)
        async with place.node("home", through_s=0.1).running() as node:
            node.cut |= {"nas", "long"}
            for number in range(30):
                written = await node.put(f"k{number}", b"%d" % number, "news")
                assert written.pending == ["nas", "long"]
            await node.put("film", bytes(200_000), "news")
        async with place.node("home", hot=True).running() as node:
            for number in range(30):
                assert await node.get(f"k{number}", "news") == b"%d" % number
            await node.settled()
        async with place.node("other").running() as other:
            assert await other.get("k7", "news") == b"7"
            assert await other.get("film", "news") == bytes(200_000)

    anyio.run(main)


def test_an_archive_brings_everything_back(tmp_path: Path) -> None:
    large = random.Random(5).randbytes(300_000)
    archive: list[bytes] = []

    async def give(node: MemoryNode) -> None:
        await node.put("a", b"1", tags=["t"])
        await node.put("large", large)
        await node.put("gone", b"2")
        await node.do("delete", namespace="plans", key="gone")

        with answering(CallInfo("memory.export", "test", node.node, Privacy.LOCAL, None, 10.0)):
            archive.extend([part async for part in node.answers.export(namespaces=["plans"])])

    async def take(node: MemoryNode) -> None:
        async def parts() -> AsyncIterator[bytes]:
            whole = b"".join(archive)
            for begin in range(0, len(whole), 777):
                yield whole[begin : begin + 777]

        done = await node.do("import_", chunks=parts())
        assert done.records == 3
        assert await node.get("a") == b"1"
        assert await node.get("large") == large
        assert await node.get("gone") is None
        assert [head.tags for head in (await node.do("list_", namespace="plans", tags=["t"])).heads] == [["t"]]

    run(tmp_path / "one", give)
    run(tmp_path / "two", take)


@pytest.mark.parametrize("harm", ["cut", "flip", "other", "nothing"])
def test_a_damaged_archive_is_refused_and_what_came_before_is_kept(tmp_path: Path, harm: str) -> None:
    async def test(node: MemoryNode) -> None:
        for number in range(5):
            await node.put(f"k{number}", bytes([number]) * 1000)

        with answering(CallInfo("memory.export", "test", node.node, Privacy.LOCAL, None, 10.0)):
            whole = bytearray(b"".join([part async for part in node.answers.export()]))
        if harm == "cut":
            del whole[-100:]
        elif harm == "flip":
            whole[len(whole) // 2] ^= 1
        elif harm == "other":
            whole[:5] = b"tar.."
        else:
            whole.clear()
        with pytest.raises(CallError) as caught:
            await node.do("import_", chunks=chunks(bytes(whole)))
        assert caught.value.data["error"] == "damaged"
        assert await node.get("k0") == bytes(1000)

    run(tmp_path, test)


def test_words_are_found_and_what_is_gone_is_not(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("a", b"the boiler was serviced in May", content_type="text/plain")
        await node.put("b", b"the boiler makes a noise", content_type="text/plain", tags=["todo"])
        await node.put("c", b"a boiler in the pin namespace", "pin", content_type="text/plain")
        with anyio.fail_after(5):
            while len((await node.do("search", text="boiler")).matches) < 3:
                await anyio.sleep(0.01)
        only = await node.do("search", text="boiler noise", namespaces=["plans"], tags=["todo"])
        assert [match.head.key for match in only.matches] == ["b"]
        await node.do("delete", namespace="plans", key="b")
        left = await node.do("search", text="boiler", namespaces=["plans"])
        assert [match.head.key for match in left.matches] == ["a"]
        assert "noise" not in str(left)

    run(tmp_path, test)


def test_stats_tell_of_tiers_and_namespaces(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("a", b"12345", "news")
        await node.get("a", "news")
        stats = await node.do("stats")
        assert [(tier.name, tier.level, tier.breaker) for tier in stats.tiers] == [
            ("hot", 1, "closed"),
            ("own", 2, "closed"),
            ("nas", 2, "closed"),
            ("long", 3, "closed"),
        ]
        news = next(one for one in stats.namespaces if one.name == "news")
        assert (news.records, news.bytes, news.privacy) == (1, 5, "shared")
        assert stats.writes == 1
        node.cut.add("nas")
        for _ in range(5):
            stats = await node.do("stats")
        nas = next(tier for tier in stats.tiers if tier.name == "nas")
        assert nas.breaker in ("open", "half-open")
        assert any("nas is cut off" in state for state in node.states)

    run(tmp_path, test, hot=True)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("put", {"namespace": "plans", "key": "", "value": b""}),
        ("put", {"namespace": "plans", "key": "k", "value": b"x" * ((1 << 20) + 1)}),
        ("put", {"namespace": "plans", "key": "k", "value": b"", "ttl_s": -1.0}),
        ("put", {"namespace": "plans", "key": "k", "value": b"", "content_type": "a\nb"}),
        ("get", {"namespace": "../x", "key": "k"}),
        ("list_", {"namespace": "plans", "limit": 0}),
        ("search", {}),
        ("search", {"text": "x", "limit": 10_000}),
        ("search", {"vector": [float("nan")]}),
        ("cas", {"namespace": "plans", "key": "k", "value": b"", "etag": "zzz"}),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, method: str, given: dict[str, Any]) -> None:
    async def test(node: MemoryNode) -> None:
        with pytest.raises(CallError) as caught:
            await node.do(method, **given)
        assert caught.value.kind == "invalid-params"
        assert caught.value.data["field"]

    run(tmp_path, test)


def test_what_may_not_leave_the_site_is_not_given_to_a_call_from_elsewhere(tmp_path: Path) -> None:
    async def test(node: MemoryNode) -> None:
        await node.put("k", b"private", content_type="text/plain")
        await node.put("k", b"public", "news", content_type="text/plain")
        assert await node.get("k", "news", away="cloud") == b"public"
        for method, given in (
            ("get", {"namespace": "plans", "key": "k"}),
            ("history", {"namespace": "plans", "key": "k"}),
            ("list_", {"namespace": "plans"}),
            ("put", {"namespace": "plans", "key": "k", "value": b""}),
            ("search", {"text": "private", "namespaces": ["plans"]}),
        ):
            with pytest.raises(CallError, match="denied"):
                await node.do(method, away="cloud", **given)
        assert "plans" not in str(await node.do("stats", away="cloud"))
        found = await node.do("search", text="private public", away="cloud")
        assert all(match.head.namespace == "news" for match in found.matches)

    run(tmp_path, test, namespaces=SPACES)
