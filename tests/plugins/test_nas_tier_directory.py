"""Tier 2 in a folder: the newest wins with no lock, whoever writes and dies; damage is found; nobody hangs."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkd import CallError, MemoryRecord, digest_of
from sparkd.testing import short_folder
from sparkd.testing.wires import Lines
from sparkd_plugins.nas_tier.bounded import BoundedThreads
from sparkd_plugins.nas_tier.clock import version_of
from sparkd_plugins.nas_tier.directory_config import DirectoryConfig
from sparkd_plugins.nas_tier.directory_tier import DirectoryTier, open_directory
from sparkd_plugins.nas_tier.mount import mounted_at

A, B = "a" * 32, "b" * 32
NOW = 1_800_000_000_000


def version(number: int, node: str = A) -> str:
    return version_of(NOW + number, 0, node)


def record(number: int, key: str = "k", **more: Any) -> MemoryRecord:
    value = more.pop("value", b"value %d" % number)
    size = more.pop("size", len(value or b""))
    return MemoryRecord(namespace="n", key=key, version=version(number), value=value, size=size, **more)


def grave(number: int, key: str = "k") -> MemoryRecord:
    return record(number, key, value=None, deleted=True)


def run(root: Path, test: Callable[[DirectoryTier], Awaitable[None]], node: str = A, **config: Any) -> None:
    async def main() -> None:
        settings_ = DirectoryConfig(**{"path": root, "free_least_bytes": 0, **config})
        async with open_directory(settings_, node_id=node, log=Lines()) as tier:
            await test(tier)

    anyio.run(main)


async def parts(value: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for begin in range(0, len(value), size):
        yield value[begin : begin + size]


async def store(tier: DirectoryTier, value: bytes) -> str:
    digest = digest_of(value)
    await tier.write(digest=digest, size=len(value), chunks=parts(value, 100_000))
    return digest


async def whole(tier: DirectoryTier, digest: str, **more: Any) -> bytes:
    return b"".join([chunk async for chunk in tier.read(digest=digest, **more)])


async def sweep(tier: DirectoryTier, **more: Any) -> Any:
    given_ = {
        "now_ms": NOW,
        "tombstones_before": version(-1000),
        "history_before": version(-1000),
        "history_most": 10,
        "scrub": 100,
    }
    return await tier.sweep(**{**given_, **more})


def test_the_newest_wins_in_every_order_and_all_others_are_history(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for number, order in enumerate(itertools.permutations(range(4))):
            key = f"k{number}"
            outcomes = [(await tier.put(record=record(each, key))).outcome for each in order]
            assert outcomes == ["stored" if each == max(order[: at + 1]) else "older" for at, each in enumerate(order)]
            assert await tier.get(namespace="n", key=key) == record(3, key)
            assert await tier.history(namespace="n", key=key) == [record(each, key) for each in (3, 2, 1, 0)]
        assert (await tier.put(record=record(3, "k0"))).outcome == "same"
        assert (await tier.put(record=record(2, "k0"))).outcome == "older"

    run(tmp_path, test)


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "\0", ".", "..", "é" * 256, "😀", "con", "head", " "])
def test_no_key_leaves_its_place(tmp_path: Path, key: str) -> None:
    async def test(tier: DirectoryTier) -> None:
        await tier.put(record=record(1, key))
        assert await tier.get(namespace="n", key=key) == record(1, key)
        assert await tier.get(namespace="n2", key=key) is None

    run(tmp_path / "nas", test)
    assert [path.name for path in tmp_path.iterdir()] == ["nas"]
    assert sorted(path.name for path in (tmp_path / "nas").iterdir()) == ["data", "models", "prime-spark-cache"]


def test_two_nodes_that_hammer_the_same_keys_agree_on_the_newest(tmp_path: Path) -> None:
    code = """
import anyio, random, sys
from pathlib import Path
from tests.plugins.test_nas_tier_directory import run, record
node, seed = sys.argv[2] * 32, int(sys.argv[3])
async def test(tier):
    numbers = [n for n in range(150) if n % 3 == seed]
    random.Random(seed).shuffle(numbers)
    for n in numbers:
        await tier.put(record=record(n, f"k{n % 2}"))
run(Path(sys.argv[1]), test, node)
"""
    nodes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), node, str(seed)])
        for seed, node in enumerate("abc")
    ]
    assert [node.wait(50) for node in nodes] == [0, 0, 0]

    async def test(tier: DirectoryTier) -> None:
        for key, newest in (("k0", 148), ("k1", 149)):
            assert await tier.get(namespace="n", key=key) == record(newest, key)
            assert len(await tier.history(namespace="n", key=key)) == 75
        seen = await tier.changes()
        assert {one.key for one in seen.records} == {"k0", "k1"}

    run(tmp_path, test)


def test_of_many_who_count_by_condition_each_count_is_there(tmp_path: Path) -> None:
    code = """
import sys
from dataclasses import replace
from pathlib import Path
import msgspec
from sparkd_plugins.nas_tier.clock import VersionClock
from tests.plugins.test_nas_tier_directory import run, record
node = sys.argv[2] * 32
clock = VersionClock(node)
async def test(tier):
    for _ in range(25):
        while True:
            now = await tier.get(namespace="n", key="count")
            count = 0 if now is None else int(now.value)
            etag = "" if now is None else now.version
            new = msgspec.structs.replace(record(0, "count"), value=b"%d" % (count + 1), version=clock.next(above=etag))
            if (await tier.cas(record=new, etag=etag)).outcome == "stored":
                break
run(Path(sys.argv[1]), test, node)
"""
    nodes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), node]) for node in "abcd"]
    assert [node.wait(50) for node in nodes] == [0] * 4

    async def test(tier: DirectoryTier) -> None:
        got = await tier.get(namespace="n", key="count")
        assert got is not None
        assert got.value == b"100"

    run(tmp_path, test)


@pytest.mark.timeout(120)
def test_a_writer_that_is_killed_leaves_nothing_half_and_nothing_lost(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.plugins.test_nas_tier_directory import run, record, store
import msgspec
begin = int(sys.argv[2])
async def test(tier):
    for n in range(begin, begin + 100000):
        if n % 5 == 0:
            value = bytes([n % 251]) * 100_000
            digest = await store(tier, value)
            await tier.put(record=record(n, f"k{n % 7}", value=None, size=len(value), digest=digest))
        else:
            await tier.put(record=record(n, f"k{n % 7}"))
        print(n, flush=True)
run(Path(sys.argv[1]), test)
"""
    choose, begin, newest = random.Random(11), 0, {}
    for _ in range(12):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(begin)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer.stdout:
            writer.stdout.readline()
            time.sleep(choose.random() * 0.25)
            writer.kill()
            done = [int(line) for line in writer.stdout.read().split("\n") if line]
        writer.wait()
        for number in [begin, *done]:
            newest[f"k{number % 7}"] = number
        begin = max([begin, *done]) + 10

    async def test(tier: DirectoryTier) -> None:
        swept = await sweep(tier)
        assert not swept.damaged
        assert not swept.damaged_records
        for key, number in newest.items():
            got = await tier.get(namespace="n", key=key)
            assert got is not None
            assert got.version >= version(number)
            if got.is_blob:
                assert len(await whole(tier, got.digest)) == 100_000

    run(tmp_path, test)


def test_a_head_that_is_too_old_is_set_right_by_the_next_put_and_by_a_sweep(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for by in ("put", "sweep"):
            await tier.put(record=record(1, by))
            head = next(
                path for path in heads(tmp_path) if b"n" in path.read_bytes() and by.encode() in path.read_bytes()
            )
            old = head.read_bytes()
            await tier.put(record=record(2, by))
            head.write_bytes(old)  # as if killed before it was made
            if by == "put":
                assert (await tier.put(record=record(0, by))).outcome == "older"
            else:
                await sweep(tier)
            assert await tier.get(namespace="n", key=by) == record(2, by)

    run(tmp_path, test)


def heads(root: Path) -> list[Path]:
    return sorted(root.rglob("head"))


@pytest.mark.parametrize("harm", [b"", b"x", b"\xff" * 500])
def test_damaged_records_are_set_aside_and_another_copy_is_taken(tmp_path: Path, harm: bytes) -> None:
    async def test(tier: DirectoryTier) -> None:
        await tier.put(record=record(1))
        await tier.put(record=record(2))
        (head,) = heads(tmp_path)
        head.write_bytes(harm)
        assert await tier.get(namespace="n", key="k") == record(2)
        (head.parent / version(2)).write_bytes(harm)
        assert (await sweep(tier)).damaged_records == 0  # the head is as good
        (head.parent / version(2)).unlink()
        head.write_bytes(harm)
        swept = await sweep(tier)
        assert swept.damaged_records == 1
        assert await tier.get(namespace="n", key="k") == record(1)
        assert list((tmp_path / "prime-spark-cache" / "damaged").iterdir())

    run(tmp_path, test)


def test_blobs_are_read_whole_and_in_parts_and_never_rewritten(tmp_path: Path) -> None:
    value = random.Random(2).randbytes(900_000)

    async def test(tier: DirectoryTier) -> None:
        digest = await store(tier, value)
        assert await tier.has(digest=digest)
        assert await whole(tier, digest) == value
        assert await whole(tier, digest, offset=5, length=10) == value[5:15]
        assert await whole(tier, digest, offset=899_999) == value[-1:]
        path = next(tmp_path.rglob(digest))
        inode = path.stat().st_ino
        await store(tier, value)
        assert path.stat().st_ino == inode

    run(tmp_path, test)


@pytest.mark.parametrize("wrong", ["size", "digest", "name"])
def test_a_blob_that_is_not_what_it_is_called_is_refused(tmp_path: Path, wrong: str) -> None:
    async def test(tier: DirectoryTier) -> None:
        value = b"x" * 5000
        digest = {"digest": "0" * 64, "name": "../../x"}.get(wrong, digest_of(value))
        with pytest.raises(CallError) as caught:
            await tier.write(digest=digest, size=4999 if wrong == "size" else 5000, chunks=parts(value))
        assert caught.value.data.get("error") == "refused" or caught.value.kind == "invalid-params"

    run(tmp_path, test)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 4000]


def test_flipped_bits_are_found_by_reading_and_by_scrubbing_and_can_be_healed(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        values = [bytes([number]) * 300_000 for number in range(4)]
        digests = [await store(tier, value) for value in values]
        for number, digest in enumerate(digests):
            await tier.put(record=record(number, f"k{number}", value=None, size=300_000, digest=digest))
        for digest in digests[:2]:
            path = next((tmp_path / "prime-spark-cache" / "blobs").rglob(digest))
            with path.open("r+b") as file:
                file.seek(200_000)
                file.write(b"!")
        with pytest.raises(CallError) as caught:
            await whole(tier, digests[0])
        assert caught.value.data["error"] == "damaged"
        swept = await sweep(tier, scrub=1)
        for _ in range(4):
            swept = await sweep(tier, scrub=1) if not swept.damaged else swept
        assert swept.damaged == [digests[1]]
        for digest, value in zip(digests, values, strict=True):
            await store(tier, value)
            assert await whole(tier, digest) == value

    run(tmp_path, test)


def test_what_nothing_names_goes_in_two_steps_and_comes_back_if_it_is_named_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparkd_plugins.nas_tier.directory_sweep.YOUNG_S", -1.0)

    async def test(tier: DirectoryTier) -> None:
        named = await store(tier, b"named" * 20_000)
        loose, wanted = await store(tier, b"loose" * 20_000), await store(tier, b"wanted" * 20_000)
        await tier.put(record=record(1, "a", value=None, size=100_000, digest=named))
        await sweep(tier)
        assert sorted(path.name for path in (tmp_path / "prime-spark-cache" / "trash").iterdir()) == sorted(
            [loose, wanted]
        )
        assert await tier.has(digest=wanted)  # taken back
        await tier.put(record=record(2, "b", value=None, size=120_000, digest=wanted))
        swept = await sweep(tier)
        assert swept.blobs == 1
        assert not await tier.has(digest=loose)
        assert await whole(tier, named) == b"named" * 20_000
        assert await whole(tier, wanted) == b"wanted" * 20_000

    run(tmp_path, test)


def test_a_fresh_blob_is_left_alone_though_nothing_names_it_yet(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        digest = await store(tier, b"x" * 100_000)
        swept = await sweep(tier)
        assert swept.blobs == 0
        assert await whole(tier, digest) == b"x" * 100_000

    run(tmp_path, test)


def test_what_has_expired_goes_and_an_older_version_that_comes_late_does_not_come_back(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        await tier.put(record=record(5, hard_ms=NOW - 1))
        swept = await sweep(tier)
        assert swept.records == 1
        gone = await tier.get(namespace="n", key="k")
        assert gone is not None
        assert gone.deleted
        assert (await tier.put(record=record(4))).outcome == "older"
        assert (await tier.put(record=record(6))).outcome == "stored"

    run(tmp_path, test)


def test_a_forgotten_deletion_raises_the_floor_and_what_is_older_is_kept_aside(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        await tier.put(record=record(1))
        await tier.put(record=grave(5))
        swept = await sweep(tier, tombstones_before=version(6), history_before=version(6))
        assert swept.tombstones == 1
        assert await tier.get(namespace="n", key="k") is None
        assert (await tier.about()).floor == version(5)
        late = await tier.put(record=record(3))
        assert late.outcome == "floor"
        assert await tier.get(namespace="n", key="k") is None
        assert (await tier.put(record=record(7))).outcome == "stored"

    run(tmp_path, test)


def test_history_is_bounded_in_number_and_age(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for number in range(20):
            await tier.put(record=record(number))
        await sweep(tier, history_most=3)
        assert [one.version for one in await tier.history(namespace="n", key="k")] == [
            version(n) for n in (19, 18, 17, 16)
        ]
        await sweep(tier, history_before=version(18))
        assert [one.version for one in await tier.history(namespace="n", key="k")] == [version(19), version(18)]

    run(tmp_path, test)


def test_changes_tell_everything_once_and_then_what_is_new(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for number in range(30):
            await tier.put(record=record(number, f"k{number}"))
        keys, cursor, more = set(), "", True
        while more:
            page = await tier.changes(cursor=cursor, limit=7)
            keys |= {one.key for one in page.records}
            cursor, more = page.cursor, page.more
        assert keys == {f"k{number}" for number in range(30)}
        assert (await tier.changes(cursor=cursor)).records == []
        await tier.put(record=record(100, "k3"))
        await tier.put(record=grave(101, "k4"))
        page = await tier.changes(cursor=cursor)
        assert page.records == [record(100, "k3"), grave(101, "k4")]
        assert (await tier.changes(cursor=page.cursor)).records == []
        for rubbish in ("x", "walk:zz|??", "|", "a:b:c", f"{A}:9:9"):
            assert len((await tier.changes(cursor=rubbish)).records) in (0, 30)

    run(tmp_path, test)


def test_what_is_written_while_all_is_looked_through_is_not_missed(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for number in range(20):
            await tier.put(record=record(number, f"k{number}"))
        first = await tier.changes(limit=10)
        for number in range(20, 40):
            await tier.put(record=record(number, f"k{number}"))
        keys = {one.key for one in first.records}
        cursor, more = first.cursor, True
        while more:
            page = await tier.changes(cursor=cursor, limit=10)
            keys |= {one.key for one in page.records}
            cursor, more = page.cursor, page.more
        page = await tier.changes(cursor=cursor)
        keys |= {one.key for one in page.records}
        assert keys == {f"k{number}" for number in range(40)}

    run(tmp_path, test)


def test_a_torn_end_of_a_log_is_waited_for_and_hides_nothing(tmp_path: Path) -> None:
    async def first(tier: DirectoryTier) -> None:
        await tier.put(record=record(1, "a"))

    async def second(tier: DirectoryTier) -> None:
        cursor = (await tier.changes()).cursor
        log = next((tmp_path / "prime-spark-cache" / "changes" / A).iterdir())
        with log.open("ab") as file:
            file.write(b"\x00\x20half")  # a writer that was killed in the midst
        await tier.put(record=record(2, "b"))
        page = await tier.changes(cursor=cursor)
        assert [one.key for one in page.records] == ["b"]

    run(tmp_path, first)
    run(tmp_path, second)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.booleans(), st.booleans()), max_size=25))
def test_the_newest_is_always_what_is_read(puts: list[tuple[int, int, bool, bool]]) -> None:
    async def test(tier: DirectoryTier) -> None:
        newest: dict[str, MemoryRecord] = {}
        for key, number, deleted, swept in puts:
            name = f"k{key}"
            given_ = grave(2 * number, name) if deleted else record(2 * number + 1, name)
            await tier.put(record=given_)
            if name not in newest or given_.version > newest[name].version:
                newest[name] = given_
            if swept:
                await sweep(tier)
        for name, expected in newest.items():
            assert await tier.get(namespace="n", key=name) == expected

    with short_folder() as folder:
        run(folder, test)


def test_two_nodes_that_lay_out_the_tier_at_once_give_it_one_name(tmp_path: Path) -> None:
    async def main() -> None:
        names: set[str] = set()

        async def about(node: str) -> None:
            config = DirectoryConfig(path=tmp_path, free_least_bytes=0)
            async with open_directory(config, node_id=node * 32, log=Lines()) as tier:
                names.add((await tier.about()).ident)

        async with anyio.create_task_group() as tasks:
            for node in "abcdef":
                tasks.start_soon(about, node)
        assert len(names) == 1

    anyio.run(main)
    assert json.loads((tmp_path / "prime-spark-cache" / "tier.json").read_text())["format"] == 1


def test_a_folder_that_nothing_is_mounted_at_is_not_written_to(tmp_path: Path) -> None:
    async def test(tier: DirectoryTier) -> None:
        for deed in (tier.put(record=record(1)), tier.get(namespace="n", key="k"), tier.changes(), tier.about()):
            with pytest.raises(CallError) as caught:
                await deed
            assert "mount" in caught.value.message
            assert caught.value.data["remedy"]

    if mounted_at(tmp_path, Path("/proc/self/mountinfo").read_text()) != "/":
        pytest.skip("the folder of temporary files is a mount itself")
    run(tmp_path / "nas", test, mount=True)
    assert list(tmp_path.iterdir()) == []


def test_the_mount_that_a_path_stands_on_is_found() -> None:
    text = (
        "1 2 0:1 / / rw - ext4 /dev/x rw\n3 1 0:2 / /mnt/nas\\040two rw - nfs4 x rw\n4 1 0:3 / /mnt/na rw - nfs x rw\n"
    )
    assert mounted_at(Path("/mnt/nas two/x"), text) == "/mnt/nas two"
    assert mounted_at(Path("/mnt/nas"), text) == "/"
    assert mounted_at(Path("/mnt/na"), text) == "/mnt/na"


def test_a_full_disk_refuses_and_says_so_and_nothing_half_is_left(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a file system of its own is mounted by root only")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(tmp_path)], check=True)

    async def test(tier: DirectoryTier) -> None:
        stored = []

        async def fill() -> None:
            for number in range(100):
                value = random.Random(number).randbytes(200_000)
                digest = await store(tier, value)
                await tier.put(record=record(number, f"k{number}", value=None, size=200_000, digest=digest))
                stored.append((number, value))

        with pytest.raises(CallError) as caught:
            await fill()
        assert caught.value.kind == "unavailable"
        assert caught.value.data["remedy"]
        assert 5 < len(stored) < 25
        assert (await tier.about()).ident
        for number, value in stored:
            got = await tier.get(namespace="n", key=f"k{number}")
            assert got is not None
            assert await whole(tier, got.digest) == value
        assert not list(tmp_path.rglob(".part-*"))

    try:
        run(tmp_path, test)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_call_that_hangs_is_given_up_and_when_all_threads_hang_calls_are_refused_at_once() -> None:
    async def main() -> None:
        gate = threading.Event()
        threads = BoundedThreads(3, limit_s=0.1, where="/mnt/nas")
        stalls: list[float] = []

        async def beat() -> None:
            while True:
                begun = time.monotonic()
                await anyio.sleep(0.005)
                stalls.append(time.monotonic() - begun)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            for _ in range(3):
                with pytest.raises(CallError, match="does not answer"):
                    await threads.run(gate.wait)
            assert threads.hanging == 3
            begun = time.monotonic()
            with pytest.raises(CallError, match="all of 3 calls under way hang"):
                await threads.run(int)
            assert time.monotonic() - begun < 0.1  # the limit of a call
            gate.set()
            with anyio.fail_after(5):
                while threads.hanging:
                    await anyio.sleep(0.01)
            assert await threads.run(lambda: 42) == 42
            tasks.cancel_scope.cancel()
        assert max(stalls) < 0.3  # a call that hangs the loop would do so for longer

    anyio.run(main)


def test_a_process_whose_calls_hang_ends_in_time() -> None:
    code = """
import anyio, threading
from sparkd import CallError
from sparkd_plugins.nas_tier.bounded import BoundedThreads
async def main():
    try:
        await BoundedThreads(2, limit_s=0.1, where="x").run(threading.Event().wait)
    except CallError:
        print("given up", flush=True)
anyio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=True)
    assert ended.stdout == "given up\n"
