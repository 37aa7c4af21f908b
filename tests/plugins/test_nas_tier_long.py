"""Tier 3: a folder of objects, and records in SQLite or in a real PostgreSQL with pgvector."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import CallError, MemoryRecord, MemoryVector, Privacy, Secret, digest_of
from sparkd.testing import short_folder
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.long_config import LongConfig
from sparkd_plugins.nas_tier.tier_long import LongTier, open_long
from tests.plugins.servers import postgres

pytestmark = pytest.mark.timeout(180)
NODE, NOW = "a" * 32, 1_800_000_000_000
SHARED = int(Privacy.SHARED)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def records(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return where records are kept: nothing for SQLite, or a real PostgreSQL."""
    if request.param == "sqlite":
        yield ""
        return
    with short_folder() as folder, postgres(folder) as server:
        yield server.uri


_numbers = itertools.count()


def run(records: str, folder: Path, test: Callable[[LongTier, str], Awaitable[None]], **more: Any) -> None:
    """Run a test in a namespace of its own: the servers are shared."""

    async def main() -> None:
        async with open_long(LongConfig(records=records, **more), state_dir=folder, node_id=NODE, log=Lines()) as tier:
            await test(tier, f"n{next(_numbers)}")

    anyio.run(main)


def version(number: int) -> str:
    return version_of(NOW + number, 0, NODE)


def record(namespace: str, number: int, key: str = "k", **more: Any) -> MemoryRecord:
    value = more.pop("value", b"value %d" % number)
    size = more.pop("size", len(value or b""))
    given = {"namespace": namespace, "key": key, "version": version(number), "value": value, "size": size}
    return MemoryRecord(**{**given, "privacy": SHARED, **more})


async def parts(value: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(value), size):
        yield value[begin : begin + size]


async def whole(tier: LongTier, digest: str, **more: Any) -> bytes:
    return b"".join([chunk async for chunk in tier.read(digest=digest, **more)])


def test_the_newest_wins_in_every_order_and_the_others_are_history(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        for number, order in enumerate(itertools.permutations(range(3))):
            key = f"k{number}"
            outcomes = [(await tier.put(record=record(space, each, key))).outcome for each in order]
            assert outcomes == ["stored" if each == max(order[: at + 1]) else "older" for at, each in enumerate(order)]
            assert await tier.get(namespace=space, key=key) == record(space, 2, key)
            kept = await tier.history(namespace=space, key=key)
            assert [one.version for one in kept] == [version(each) for each in (2, 1, 0)]
        assert (await tier.put(record=record(space, 2, "k0"))).outcome == "same"

    run(records, tmp_path, test)


def test_of_many_who_put_at_once_the_newest_stays_and_none_is_lost(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        async with anyio.create_task_group() as tasks:
            for number in random.Random(1).sample(range(40), 40):
                tasks.start_soon(put, tier, record(space, number))
        got = await tier.get(namespace=space, key="k")
        assert got == record(space, 39)
        assert len(await tier.history(namespace=space, key="k")) == 40

    async def put(tier: LongTier, one: MemoryRecord) -> None:
        await tier.put(record=one)

    run(records, tmp_path, test)


def test_a_condition_is_met_by_one(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        outcomes: list[str] = []

        async def cas(number: int) -> None:
            outcomes.append((await tier.cas(record=record(space, number), etag="")).outcome)

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(cas, number)
        assert sorted(outcomes) == ["older"] * 19 + ["stored"]
        first = await tier.get(namespace=space, key="k")
        assert first is not None
        assert (await tier.cas(record=record(space, 100), etag=version(77))).winner == first.version
        assert (await tier.cas(record=record(space, 100), etag=first.version)).outcome == "stored"
        await tier.put(record=record(space, 101, value=None, deleted=True))
        assert (await tier.cas(record=record(space, 102), etag="")).outcome == "stored"

    run(records, tmp_path, test)


def test_changes_tell_what_is_new_and_miss_nothing_that_is_written_at_once(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        cursor, keys = await to_end(tier, "", space)
        done = anyio.Event()

        async def put(begin: int) -> None:
            for number in range(begin, begin + 25):
                await tier.put(record=record(space, number, f"k{number}"))

        async def follow() -> None:
            nonlocal cursor
            while not done.is_set():
                cursor, more = await to_end(tier, cursor, space)
                keys.update(more)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            async with anyio.create_task_group() as writers:
                for begin in (0, 25, 50, 75):
                    writers.start_soon(put, begin)
            done.set()
        _, more = await to_end(tier, cursor, space)
        assert keys | more == {f"k{number}" for number in range(100)}

    run(records, tmp_path, test)


async def to_end(tier: LongTier, cursor: str, space: str) -> tuple[str, set[str]]:
    keys: set[str] = set()
    while True:
        page = await tier.changes(cursor=cursor, limit=17)
        keys |= {one.key for one in page.records if one.namespace == space}
        cursor = page.cursor
        if not page.more:
            return cursor, keys


def test_blobs_come_back_whole_and_in_parts_and_are_refused_if_wrong(records: str, tmp_path: Path) -> None:
    value = random.Random(4).randbytes(20_000_000)

    async def test(tier: LongTier, space: str) -> None:
        digest = digest_of(value)
        assert not await tier.has(digest=digest)
        with pytest.raises(CallError, match="blob"):
            await tier.put(record=record(space, 1, value=None, size=len(value), digest=digest))
        await tier.write(digest=digest, size=len(value), chunks=parts(value))
        assert await tier.has(digest=digest)
        assert await whole(tier, digest) == value
        assert await whole(tier, digest, offset=7_000_000, length=5) == value[7_000_000:7_000_005]
        wrong = digest_of(b"other")
        with pytest.raises(CallError) as caught:
            await tier.write(digest=wrong, size=len(value), chunks=parts(value))
        assert caught.value.data["error"] == "refused"
        assert not await tier.has(digest=wrong)
        with pytest.raises(CallError) as caught:
            await whole(tier, wrong)
        assert caught.value.data["error"] == "missing"

    run(records, tmp_path, test)


def test_what_is_not_shared_is_refused_again_here(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        for privacy in (Privacy.NODE, Privacy.LOCAL):
            with pytest.raises(CallError, match="denied"):
                await tier.put(record=record(space, 1, privacy=int(privacy)))
            with pytest.raises(CallError, match="denied"):
                await tier.cas(record=record(space, 1, privacy=int(privacy)), etag="")
        assert await tier.get(namespace=space, key="k") is None

    run(records, tmp_path, test)


def unit(*numbers: float) -> bytes:
    length = math.sqrt(sum(number * number for number in numbers))
    return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))


def test_expired_deleted_and_foreign_neighbours_never_push_out_what_is_alive(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        async def put(namespace: str, number: int, near: float, **more: Any) -> None:
            meaning = MemoryVector(model="m", begin=0, end=4, numbers=unit(1.0, near, 0.0))
            key, text = f"k{number}", f"word{number % 3} apple"
            await tier.put(record=record(namespace, number, key, text=text, vectors=[meaning], **more))

        async with anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(put, f"{space}-x", number, number / 100_000)
                tasks.start_soon(partial(put, space, 1000 + number, number / 100_000, hard_ms=NOW - 1))
        for number in range(5):
            await put(space, 2000 + number, 0.5 + number / 10, tags=["t"] if number % 2 else [])
        asked: dict[str, Any] = {"namespaces": [space], "tags": [], "content_types": [], "now_ms": NOW}
        found = await tier.search(**asked, vector=unit(1.0, 0.0, 0.0), model="m", limit=10)
        assert [match.record.key for match in found] == [f"k{2000 + number}" for number in range(5)]
        assert (found[0].begin, found[0].end) == (0, 4)
        words = await tier.search(**asked, text="apple word1", limit=10)
        assert {match.record.key for match in words} == {f"k{2000 + number}" for number in range(5)}
        tagged = await tier.search(**{**asked, "tags": ["t"]}, text="apple", limit=10)
        assert {match.record.key for match in tagged} == {"k2001", "k2003"}
        assert await tier.search(**asked, vector=unit(1.0, 0.0, 0.0), model="other", limit=10) == []
        for hostile in ("'; drop table x", 'a" OR *', "(((", "\0", "a & | !"):
            await tier.search(**asked, text=hostile, limit=3)

    run(records, tmp_path, test)


def test_a_forgotten_deletion_raises_the_floor(records: str, tmp_path: Path) -> None:
    async def test(tier: LongTier, space: str) -> None:
        await tier.put(record=record(space, 1))
        await tier.put(record=record(space, 5, value=None, deleted=True))
        given: dict[str, Any] = {"now_ms": NOW, "history_before": version(-(10**6)), "history_most": 10, "scrub": 0}
        await tier.sweep(**given, tombstones_before=version(6))
        assert (await tier.about()).floor >= version(5)
        assert await tier.get(namespace=space, key="k") is None
        late = await tier.put(record=record(space, 3))
        assert late.outcome == "floor"
        assert await tier.get(namespace=space, key="k") is None
        assert (await tier.put(record=record(space, 7))).outcome == "stored"

    run(records, tmp_path, test)


@pytest.mark.parametrize("wrong", ["records", "objects"])
def test_what_does_not_answer_is_named_without_any_secret(tmp_path: Path, wrong: str) -> None:
    secret = "sesame-77"
    config = LongConfig(
        records="postgresql://me@127.0.0.1:9/db" if wrong == "records" else "",
        password=Secret(secret, "test") if wrong == "records" else None,
        objects="s3://bucket" if wrong == "objects" else "",
        endpoint="http://127.0.0.1:9" if wrong == "objects" else "",
        access_key="AK" if wrong == "objects" else "",
        secret_key=Secret(secret, "test") if wrong == "objects" else None,
        allow_http=wrong == "objects",
        timeout_s=1.0,
    )
    assert secret not in repr(config)

    async def main() -> None:
        async with open_long(config, state_dir=tmp_path, node_id=NODE, log=Lines()) as tier:
            asked = tier.get(namespace="n", key="k") if wrong == "records" else tier.has(digest="0" * 64)
            with pytest.raises(CallError) as caught:
                await asked
            assert caught.value.kind in ("unavailable", "deadline")
            assert secret not in str(caught.value)
            assert caught.value.data.get("remedy")

    anyio.run(main)
