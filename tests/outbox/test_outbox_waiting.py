"""Waiting and sharing: readers wake for what is there and never spin; one caller's trouble is not another's."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import anyio
import pytest

from sparkd import LocalMessageError, OutboxReader, Record
from sparkd.outbox import DiskOutbox, Limits, inspect

pytestmark = pytest.mark.anyio

SMALL = Limits(segment_bytes=1 << 18)
DEFAULT = Limits()


def outbox(root: Path, limits: Limits = DEFAULT) -> DiskOutbox:
    return DiskOutbox(root, node_id="n" * 32, service="s", limits=limits, clock_is_synchronised=lambda: True)


def records(count: int, *, expired: bool = False, size: int = 10) -> list[Record]:
    expires_ns = time.time_ns() - 1 if expired else 0
    return [Record(topic="t", body=b"x" * size, expires_ns=expires_ns) for _ in range(count)]


async def numbers(reader: OutboxReader, **bounds: int) -> list[int]:
    return [stored.seq for stored in await reader.read(**{"max_records": 10, "max_bytes": 1 << 20} | bounds)]


async def test_what_is_skipped_never_takes_what_stands_behind_it_along(tmp_path: Path) -> None:
    box = outbox(tmp_path, SMALL)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        await writer.append(records(95, expired=True) + records(5))
        await writer.append(records(600, size=1000))  # the first segment is sealed

        assert await numbers(reader) == [96, 97, 98, 99, 100, 101, 102, 103, 104, 105]


async def test_two_tasks_wait_for_one_reader_and_both_wake_at_once(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        with anyio.fail_after(3):  # the slow look comes after five seconds
            for turn in range(20):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(reader.wait, after=turn))
                    tasks.start_soon(partial(reader.wait, after=turn))
                    await anyio.wait_all_tasks_blocked()
                    await writer.append(records(1))


async def test_a_wait_that_is_cancelled_leaves_the_other_waiting(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                with anyio.move_on_after(0.05):
                    tasks.start_soon(reader.wait)
                    await reader.wait()
                await writer.append(records(1))


async def test_waiting_behind_records_that_nobody_wants_does_not_spin(tmp_path: Path) -> None:
    box = outbox(tmp_path)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        await writer.append(records(3, expired=True))
        turns = 0
        with anyio.move_on_after(0.3):
            while not await numbers(reader, after=0):
                await reader.wait(after=0)
                turns += 1
        assert turns <= 1


async def test_expired_records_hold_no_segment(tmp_path: Path) -> None:
    box = outbox(tmp_path, SMALL)
    async with box.writer("e") as writer, box.reader("s", "e", name="r") as reader:
        for _ in range(10):
            await writer.append(records(100, expired=True, size=1000))
        assert await numbers(reader) == []
        assert reader.position == 1000
        assert inspect(tmp_path)[0].segments == 1


async def test_a_record_that_cannot_be_stored_fails_alone(tmp_path: Path) -> None:
    bad = Record(topic="\ud800", body=b"")
    async with outbox(tmp_path).writer("e") as writer:
        stored: list[int] = []
        refused: list[str] = []

        async def append(record: Record) -> None:
            try:
                stored.extend(await writer.append([record]))
            except (LocalMessageError, ValueError) as error:
                refused.append(str(error))

        async with anyio.create_task_group() as tasks:
            for record in (*records(5), bad, *records(5)):
                tasks.start_soon(append, record)
        assert sorted(stored) == list(range(1, 11))
        assert len(refused) == 1


async def test_an_append_that_is_cancelled_holds_nobody_up(tmp_path: Path) -> None:
    async with outbox(tmp_path, Limits()).writer("e") as writer:
        await writer.append(records(1))
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(0.01):
                tasks.start_soon(writer.append, records(1))
                await writer.append(records(1))
        with anyio.fail_after(2):
            assert len(await writer.append(records(2))) == 2


async def test_a_writer_that_is_closed_says_so(tmp_path: Path) -> None:
    async with outbox(tmp_path).writer("e") as writer:
        pass
    with pytest.raises(Exception, match="closed"):
        await writer.append(records(1))
