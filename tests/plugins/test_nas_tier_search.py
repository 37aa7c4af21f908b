"""The node's own search index beside a search by hand, and the cutting of texts."""

from __future__ import annotations

import itertools
import math
import re
import sqlite3
import struct
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkd import Embedded, MemoryRecord, MemoryVector
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.pieces import MOST, pieces
from sparkd_plugins.nas_tier.search_index import SearchIndex, fuse
from tests.plugins.memory_world import MemoryNode, world

NOW = 1_800_000_000_000
WORDS = ("apple", "boiler", "cat", "Äpfel", "delta")
SPACES = ("n", "m")
ANY: dict[str, Any] = {"tags": [], "content_types": [], "now_ms": NOW, "limit": 5}


def unit(*numbers: float) -> bytes:
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))


def record(number: int, key: str, text: str, **more: Any) -> MemoryRecord:
    return MemoryRecord(
        namespace=more.pop("namespace", "n"), key=key, version=version_of(NOW + number, 0, "a" * 32), text=text, **more
    )


steps = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from(SPACES),
        st.sampled_from(["a", "b", "c", "d"]),
        st.one_of(st.none(), st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)),
        st.sampled_from([0, NOW - 1, NOW + 10**6]),
        st.lists(st.sampled_from(["t", "u"]), unique=True),
        st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=3),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.lists(st.sampled_from(SPACES), unique=True), st.lists(st.sampled_from(["t", "u"]), unique=True))
def test_what_is_found_is_what_a_search_by_hand_finds(steps: list[Any], namespaces: list[str], tags: list[str]) -> None:
    index, seen = SearchIndex(Path(":memory:")), dict[tuple[str, str], str]()
    newest: dict[tuple[str, str], MemoryRecord] = {}
    for number, namespace, key, words, hard_ms, its_tags, vectors in steps:
        meaning = [MemoryVector(model="v", begin=at, end=at + 1, numbers=unit(*one)) for at, one in enumerate(vectors)]
        made = record(
            number, key, " ".join(words or []), namespace=namespace, hard_ms=hard_ms, tags=its_tags, vectors=meaning
        )
        if made.version >= seen.get((namespace, key), ""):
            seen[namespace, key] = made.version
            newest.pop((namespace, key), None)
            if words:
                newest[namespace, key] = made
        index.put(made)
    assert index.noted((namespace, key) for namespace in SPACES for key in "abcd") == seen
    alive = [
        one
        for one in newest.values()
        if one.namespace in namespaces and set(tags) <= set(one.tags) and not 0 < one.hard_ms <= NOW
    ]
    asked = {**ANY, "namespaces": namespaces, "tags": tags, "limit": 100}
    for word in WORDS:
        found = {(match.record.namespace, match.record.key) for match in index.words(f"{word} nowhere", **asked)}
        assert found == {(one.namespace, one.key) for one in alive if word in one.text.split()}
    wanted = unit(0.6, 0.8)
    best: dict[tuple[str, str], float] = {}
    for one in alive:
        for vector in one.vectors:
            score = sum(a * b for a, b in zip(struct.unpack("<2f", vector.numbers), (0.6, 0.8), strict=True))
            best[one.namespace, one.key] = max(score, best.get((one.namespace, one.key), -2.0))
    matches = index.near(wanted, "v", **asked)
    assert {(match.record.namespace, match.record.key) for match in matches} == set(best)
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)
    assert index.near(wanted, "w", **asked) == []
    index.close()


@given(st.text(alphabet="ab é\"*():^{}-+'\0", max_size=30))
def test_no_text_is_syntax_and_each_is_found_by_itself(text: str) -> None:
    index = SearchIndex(Path(":memory:"))
    index.put(record(1, "k", text))
    found = index.words(text, **{**ANY, "namespaces": ["n"]})
    assert bool(found) is bool(re.search(r"\w", text))
    index.close()


@pytest.mark.parametrize(
    "text", ['"', "a AND NOT", "near(a b)", "text:apple", "apple*", "^a", "{a b}", "' or 1 --", "\0"]
)
def test_what_would_be_syntax_is_searched_for_as_words(text: str) -> None:
    index = SearchIndex(Path(":memory:"))
    index.put(record(1, "k", "apple a b near text or 1"))
    index.words(text, **{**ANY, "namespaces": ["n"]})
    assert index.words("apple", **{**ANY, "namespaces": ["n"]})
    index.close()


def test_expired_ones_are_swept_and_newer_ones_are_not_removed_by_older_deletions() -> None:
    index = SearchIndex(Path(":memory:"))
    for number in range(2500):
        index.put(record(number, f"k{number}", "apple", hard_ms=NOW - 1 if number % 2 else 0))
    for number in range(100):
        index.put(record(number, f"gone{number}", "", deleted=True))
    graves = version_of(NOW + 50, 0, "0" * 32)
    while index.sweep(NOW, graves):
        pass
    every = [("n", f"{stem}{number}") for stem in ("k", "gone") for number in range(2500)]
    assert len(index.noted(every)) == 1250 + 50, "what is forgotten takes no room"
    found = index.words("apple", **{**ANY, "namespaces": ["n"], "limit": 5000, "now_ms": 0})
    assert len(found) == 1250
    index.put(record(1, "k2", "", deleted=True))
    assert "k2" in {match.record.key for match in index.words("apple", **{**ANY, "namespaces": ["n"], "limit": 5000})}
    index.close()


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "i").write_bytes(b"no database" * 1000)
    index = SearchIndex(tmp_path / "i")
    assert index.set_aside == f"{tmp_path / 'i'}.damaged"
    index.put(record(1, "k", "apple"))
    index.close()
    assert sqlite3.connect(tmp_path / "i").execute("select count(*) from texts").fetchone() == (1,)


@given(st.text(alphabet=st.sampled_from("ab .!?\n\n\té́👍🏽"), max_size=400), st.integers(12, 60), st.integers(0, 5))
def test_pieces_cover_a_text_in_order_and_none_is_too_long(text: str, most: int, overlap: int) -> None:
    found = pieces(text, most=most, overlap=overlap)
    assert (found == []) is (text == "")
    for begin, end in found:
        assert 0 <= begin < end <= len(text)
        assert end - begin <= most
    for (begin, end), (next_begin, next_end) in itertools.pairwise(found):
        assert begin < next_begin <= end < next_end, "no gap, and it goes on"
    if found:
        assert found[0][0] == 0
        assert found[-1][1] == len(text) or len(found) == MOST


@given(st.lists(st.integers(0, 20), unique=True), st.lists(st.integers(0, 20), unique=True), st.integers(1, 10))
def test_two_lists_are_fused_by_rank(near: list[int], words: list[int], limit: int) -> None:
    from sparkd import TierMatch  # noqa: PLC0415 - here alone

    lists = [
        [TierMatch(record=record(1, f"k{one}", "x"), score=1.0 / (rank + 1)) for rank, one in enumerate(each)]
        for each in (near, words)
    ]
    found = fuse(lists[0], lists[1], limit)
    assert len(found) == min(limit, len(set(near) | set(words)))
    assert all(0 < match.score <= 1 for match in found)
    points = {one: sum(1 / (61 + each.index(one)) for each in (near, words) if one in each) for one in {*near, *words}}
    expected = sorted(points.values(), reverse=True)[:limit]
    assert [points[int(match.record.key[1:])] for match in found] == pytest.approx(expected)


class Embedder:
    """Whoever serves `embed`."""

    async def texts(self, *, texts: list[str]) -> Embedded:
        return Embedded(model="v", dimensions=2, vectors=[unit(len(text), 1.0) for text in texts])


def words_of(node: MemoryNode, word: str) -> Any:
    return node.do("search", text=word, namespaces=["plans"], limit=200)


def test_however_many_texts_come_at_once_all_are_found_and_again_after_the_index_is_lost(tmp_path: Path) -> None:
    async def put(node: MemoryNode, number: int, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            await node.put(f"k{number}", f"apple number{number}".encode(), content_type="text/plain")

    async def has_all(node: MemoryNode, count: int) -> None:
        with anyio.fail_after(30):
            while len(node.memory.parts.searching._index.words("apple", **{**ANY, **EVERY})) < count:
                await anyio.sleep(0.02)
        for number in (0, count - 1):
            (match,) = (await words_of(node, f"number{number}")).matches
            assert match.head.key == f"k{number}"

    async def main() -> None:
        async with world(tmp_path, "home", through_s=0.0) as (node,):
            limiter = anyio.CapacityLimiter(400)
            node.memory.parts.indexing._waiting.update(  # as if it could not keep up
                {("none", f"{number}"): record(number, f"{number}", "", namespace="none") for number in range(250)}
            )
            async with anyio.create_task_group() as tasks:
                for number in range(400):
                    tasks.start_soon(put, node, number, limiter)
            await has_all(node, 400)
            await node.settled()
        for path in (tmp_path / "home").glob("search.sqlite3*"):
            path.unlink()
        async with world(tmp_path, "home") as (node,):
            await has_all(node, 400)

    anyio.run(main)


EVERY: dict[str, Any] = {"namespaces": ["plans"], "limit": 1000}


def test_texts_that_came_while_nobody_embedded_get_their_vectors_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, "home") as (node,):
            for number in range(5):
                await node.put(f"k{number}", b"apple", content_type="text/plain")
            index = node.memory.parts.searching._index
            with anyio.fail_after(10):
                while len(index.lacking(0, 100)) < 5:
                    await anyio.sleep(0.02)
            node.embedder = Embedder()
            node.memory.parts.meaning._not_before = 0.0  # it would be asked again after half a minute
            await words_of(node, "apple")
            with anyio.fail_after(10):
                while index.lacking(0, 100):
                    await anyio.sleep(0.02)
            found = await words_of(node, "apple")
            assert found.by == ["vectors", "words"]
            assert len(index.near(unit(5.0, 1.0), "v", **{**ANY, **EVERY})) == 5

    anyio.run(main)
