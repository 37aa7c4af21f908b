"""Appenders that share commits: one that gives up or brings what cannot be stored costs nobody else; and rotation."""

from __future__ import annotations

import resource
from pathlib import Path

import anyio
import pytest

from sparkd import Record
from sparkd.outbox import Limits, inspect
from sparkd.outbox.watch import Watch
from tests.outbox.disk import box, files, numbers, read_all, records

pytestmark = pytest.mark.anyio


async def test_an_appender_that_is_cancelled_takes_nobody_with_it(tmp_path: Path) -> None:
    got: list[int] = []

    async with box(tmp_path).writer("e") as writer, anyio.create_task_group() as tasks:

        async def append(scope: anyio.CancelScope) -> None:
            with scope:
                got.extend(await writer.append(records(1)))

        scopes = [anyio.CancelScope() for _ in range(50)]
        for scope in scopes:
            tasks.start_soon(append, scope)
        await anyio.wait_all_tasks_blocked()
        for scope in scopes[::2]:
            scope.cancel()

    stored = numbers(await read_all(tmp_path))
    assert len(got) >= 25
    assert set(got) <= set(stored)


async def test_a_record_that_cannot_be_stored_is_its_own_appenders_error(tmp_path: Path) -> None:
    got: list[int] = []

    async with box(tmp_path).writer("e") as writer, anyio.create_task_group() as tasks:

        async def good() -> None:
            got.extend(await writer.append(records(1)))

        async def bad() -> None:
            with pytest.raises(OverflowError):
                await writer.append([Record(topic="t", body=b"", priority=1 << 63)])

        for task in (good, bad, good, good, bad, good):
            tasks.start_soon(task)

    assert sorted(got) == [1, 2, 3, 4]


async def test_keys_carried_into_small_segments_leave_room_for_records(tmp_path: Path) -> None:
    limits = Limits(segment_bytes=1 << 16)
    async with box(tmp_path, limits).writer("e") as writer:
        for start in range(0, 6000, 500):
            await writer.append([Record(topic="t", body=b"b", key=f"{start + n:050d}") for n in range(500)])
        before = len(files(tmp_path).segments())
        for _ in range(20):
            await writer.append(records(1))
        assert len(files(tmp_path).segments()) <= before + 1
        assert await writer.append([Record(topic="t", body=b"b", key=f"{5999:050d}")]) == [6000]


async def test_a_reader_with_other_limits_evicts_nothing(tmp_path: Path) -> None:
    async with box(tmp_path, Limits(segment_bytes=1 << 16)).writer("e") as writer:
        for _ in range(20):
            await writer.append(records(20, size=1000))
        async with (
            box(tmp_path).reader("s", "e", name="behind"),
            box(tmp_path, Limits(max_bytes=1, max_age_s=1e-9)).reader("s", "e", name="r") as reader,
        ):
            await reader.advance(400)
    assert inspect(tmp_path)[0].evicted == 0
    assert len(await read_all(tmp_path, name="behind")) == 400


async def test_what_some_reader_had_passed_is_not_counted_as_evicted(tmp_path: Path) -> None:
    limits = Limits(max_bytes=1 << 18, segment_bytes=1 << 16)
    async with box(tmp_path, limits).writer("e") as writer, box(tmp_path).reader("s", "e", name="r") as reader:
        await writer.append(records(1))
        await reader.advance(1)
        for _ in range(40):
            await writer.append(records(20, size=1000))
        found = await reader.read(max_records=1, max_bytes=1)
        assert inspect(tmp_path)[0].evicted == found[0].seq - 2 > 0
        assert inspect(tmp_path)[0].gaps == []


async def test_names_with_marks_of_addresses_are_read(tmp_path: Path) -> None:
    root = tmp_path / "100%20 #1?x"
    async with box(root).writer("e") as writer:
        await writer.append(records(2))
    assert numbers(await read_all(root)) == [1, 2]


async def test_where_the_kernel_gives_no_watch_readers_look_by_themselves(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        watch = Watch()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with watch, anyio.fail_after(2):
        watch.file(tmp_path)
        await watch.changed()
