"""Streams on a real disk: what is appended is read, in order, across rotation, restart and trimming."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from sparkd import LocalMessageError, Privacy, Record, StorageError, Stored
from sparkd.outbox import DiskOutbox, Limits, dead_letters, drop_dead, inspect

pytestmark = pytest.mark.anyio

DEFAULT = Limits()
SMALL = Limits(segment_bytes=1 << 18)


def outbox(root: Path, service: str = "s", *, limits: Limits = DEFAULT, synchronised: bool = True) -> DiskOutbox:
    return DiskOutbox(
        root, node_id="n" * 32, service=service, limits=limits, clock_is_synchronised=lambda: synchronised
    )


def records(count: int, *, start: int = 0, size: int = 10) -> list[Record]:
    return [Record(topic="t", body=b"%d:" % (start + n) + b"x" * size) for n in range(count)]


def numbers(found: Sequence[Stored]) -> list[int]:
    return [stored.seq for stored in found]


async def test_what_is_appended_is_read_whole_and_in_order(tmp_path: Path) -> None:
    record = Record(
        topic="edge.t", body=b"b", privacy=Privacy.NODE, trace=b"t" * 16, priority=3, expires_ns=2**62, key="k"
    )
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        assert await writer.append([record, *records(2)]) == [1, 2, 3]
        found = await reader.read(max_records=10, max_bytes=1000)

        assert numbers(found) == [1, 2, 3]
        first = found[0].record
        assert (first.topic, first.body, first.privacy, first.trace) == ("edge.t", b"b", Privacy.NODE, b"t" * 16)
        assert (first.priority, first.key, first.wall_ns > 0) == (3, "k", True)
        assert await reader.read(max_records=10, max_bytes=1000) == []
        assert await reader.tail() == 3


async def test_the_cursor_lasts_and_holds_records_back(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer:
        await writer.append(records(10))
        async with box.reader("s", "e", name="r") as reader:
            await reader.read(max_records=4, max_bytes=1000)
            await reader.advance(4)
        async with box.reader("s", "e", name="r") as reader:
            assert reader.position == 4
            assert numbers(await reader.read(max_records=2, max_bytes=1000)) == [5, 6]
            await reader.rewind()
            assert numbers(await reader.read(max_records=2, max_bytes=1000)) == [5, 6]
            assert numbers(await reader.read(max_records=2, max_bytes=1000, after=8)) == [9, 10]
            assert numbers(await reader.read(max_records=2, max_bytes=1000)) == [7, 8]


async def test_reads_are_bounded_by_bytes_but_never_empty(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        await writer.append(records(5, size=1000))

        assert numbers(await reader.read(max_records=10, max_bytes=1)) == [1]
        assert numbers(await reader.read(max_records=10, max_bytes=2500)) == [2, 3]


async def test_numbers_go_on_over_rotation_trimming_and_restart(tmp_path: Path) -> None:
    box = outbox(tmp_path, limits=SMALL)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        for start in range(0, 2000, 100):
            await writer.append(records(100, start=start, size=500))
        found = []
        while batch := await reader.read(max_records=300, max_bytes=1 << 20):
            found += numbers(batch)
            await reader.advance(found[-1])
        assert found == list(range(1, 2001))
        (status,) = inspect(tmp_path)
        assert status.segments == 1
    async with box.writer("e") as writer:
        assert await writer.append(records(1)) == [2001]


async def test_many_appenders_share_commits_and_all_get_their_own_numbers(tmp_path: Path) -> None:
    got: list[int] = []

    async with outbox(tmp_path).writer("e") as writer, anyio.create_task_group() as tasks:

        async def one(n: int) -> None:
            got.extend(await writer.append(records(1, start=n)))

        for n in range(200):
            tasks.start_soon(one, n)

    assert sorted(got) == list(range(1, 201))


async def test_a_repeated_key_stores_nothing_and_returns_the_first_number(tmp_path: Path) -> None:
    box = outbox(tmp_path, limits=SMALL)
    keyed = Record(topic="t", body=b"b", key="k")
    async with box.writer("e") as writer:
        assert await writer.append([keyed, keyed]) == [1, 1]
        await writer.append(records(600, size=1000))  # several segments on
        assert await writer.append([keyed]) == [1]
    async with box.writer("e") as writer:
        assert await writer.append([keyed, Record(topic="t", body=b"c", key="other")]) == [1, 602]


async def test_marks_are_stored_with_records_and_outlive_segments(tmp_path: Path) -> None:
    box = outbox(tmp_path, limits=SMALL)
    async with box.writer("e") as writer:
        await writer.append(records(1), marks={"a": b"1"})
        await writer.append([], marks={"b": b"2"})
        await writer.append(records(600, size=1000))
    async with box.writer("e") as writer:
        assert (writer.mark("a"), writer.mark("b"), writer.mark("c")) == (b"1", b"2", None)


async def test_a_stream_keeps_its_epoch_even_if_its_file_is_lost(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer:
        epoch = writer.stream_id.epoch
    (tmp_path / "s" / "e" / "stream.json").unlink()
    async with box.writer("e") as writer:
        assert writer.stream_id.epoch == epoch


async def test_expired_records_are_skipped_unless_the_clock_is_in_doubt(tmp_path: Path) -> None:
    old = Record(topic="t", body=b"", expires_ns=time.time_ns() - 1)
    async with outbox(tmp_path).writer("e") as writer:
        await writer.append([old, *records(1)])
    async with outbox(tmp_path).reader("s", "e", name="r") as reader:
        assert numbers(await reader.read(max_records=9, max_bytes=999)) == [2]
    async with outbox(tmp_path, synchronised=False).reader("s", "e", name="q") as reader:
        assert numbers(await reader.read(max_records=9, max_bytes=999)) == [1, 2]


async def test_over_the_cap_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    limits = Limits(max_bytes=1 << 20, segment_bytes=1 << 18)
    box = outbox(tmp_path, limits=limits)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        for start in range(0, 3000, 100):
            await writer.append(records(100, start=start, size=1000))
        (status,) = inspect(tmp_path)
        assert status.bytes < 1.6 * limits.max_bytes
        first = (await reader.read(max_records=1, max_bytes=1))[0].seq
        assert status.evicted == first - 1 > 0
        assert status.readers[0].behind == 3000


async def test_a_second_writer_is_told_that_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.outbox.stream.LOCK_LIMIT_S", 0.05)
    async with outbox(tmp_path).writer("e"):
        with pytest.raises(StorageError, match="a stream has one writer"):
            async with outbox(tmp_path).writer("e"):
                pass


async def test_a_reader_wakes_when_something_is_appended(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader, anyio.create_task_group() as tasks:
        woken = anyio.Event()

        async def read() -> None:
            while not await reader.read(max_records=1, max_bytes=1):
                await reader.wait()
            woken.set()

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            await writer.append(records(1))
            await woken.wait()


async def test_new_streams_are_seen(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    with anyio.fail_after(3):
        async with box.watch() as changes:
            assert await anext(changes) == []
            async with box.writer("e"):
                assert await anext(changes) == [("s", "e")]
            async with outbox(tmp_path, "z").writer("f"):
                assert await anext(changes) == [("s", "e"), ("z", "f")]


async def test_dead_letters_are_kept_listed_and_dropped(tmp_path: Path) -> None:
    box = outbox(tmp_path, limits=Limits(max_dead=2))
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        await writer.append(records(3))
        for stored in await reader.read(max_records=3, max_bytes=1000):
            await reader.reject(stored, f"reason {stored.seq}")

    assert [(d.seq, d.reason, d.reader) for d in dead_letters(tmp_path, "s", "e")] == [
        (2, "reason 2", "r"),
        (3, "reason 3", "r"),
    ]
    assert inspect(tmp_path)[0].dead == 2
    assert drop_dead(tmp_path, "s", "e", [2, 9]) == 1


async def test_a_malformed_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(LocalMessageError, match="lower-case words"):
        async with outbox(tmp_path).writer("../x"):
            pass


async def test_a_stream_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such stream"):
        async with outbox(tmp_path).reader("s", "nothing", name="r"):
            pass
