"""A full disk: nothing acknowledged is lost, readers go on and make room, and appending works again by itself."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd import OutboxWriter, StorageError
from sparkd.outbox import Limits, inspect
from tests.outbox.disk import box, files, numbers, read_all, records, run

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="a small file system can be mounted only by root"),
]

SMALL = Limits(segment_bytes=1 << 18)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["/bin/umount", "-l", tmp_path], check=True)


def stuff(disk: Path) -> None:
    """Take all the room that is left."""
    with contextlib.suppress(OSError), (disk / "stuff").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1024))


async def append_until_full(writer: OutboxWriter) -> list[int]:
    """Return the acknowledged numbers."""
    acknowledged: list[int] = []
    while True:
        try:
            acknowledged += await writer.append(records(50, start=len(acknowledged), size=300))
        except StorageError as error:
            assert "s/e: " in str(error)  # noqa: PT017 - each of many appends may be the one that fails
            assert "make room on this disk" in str(error)  # noqa: PT017 - likewise
            return acknowledged


async def fill(disk: Path, limits: Limits = SMALL) -> list[int]:
    """Append until the disk is full; return the acknowledged numbers."""
    async with box(disk, limits).writer("e") as writer:
        return await append_until_full(writer)


async def test_a_full_disk_says_where_and_what_to_do_and_keeps_what_it_acknowledged(disk: Path) -> None:
    acknowledged = await fill(disk)

    assert numbers(await read_all(disk))[: len(acknowledged)] == acknowledged
    assert inspect(disk)[0].gaps == []


async def test_a_reader_makes_room_and_the_same_writer_goes_on(disk: Path) -> None:
    acknowledged: list[int] = []
    async with box(disk, SMALL).writer("e") as writer, box(disk, SMALL).reader("s", "e", name="r") as reader:
        for _ in range(3):
            acknowledged += await append_until_full(writer)
            found = []
            while batch := await reader.read(max_records=100, max_bytes=1 << 20):
                found += numbers(batch)
                await reader.advance(found[-1])
            assert found[-1] == acknowledged[-1]
            assert inspect(disk)[0].segments == 1
        acknowledged += await writer.append(records(1))
    assert acknowledged == list(range(1, len(acknowledged) + 1))


async def test_room_made_by_others_is_noticed(disk: Path) -> None:
    async with box(disk, SMALL).writer("e") as writer:
        last = (await writer.append(records(100, size=300)))[-1]
        stuff(disk)
        last = [last, *await append_until_full(writer)][-1]
        stuff(disk)  # the reserve, too
        with pytest.raises(StorageError, match="make room"):
            await writer.append(records(1))
        (disk / "stuff").unlink()
        assert await writer.append(records(1)) == [last + 1]
    assert numbers(await read_all(disk)) == list(range(1, last + 2))


async def test_a_writer_that_died_on_a_full_disk_leaves_all_to_the_reader(disk: Path) -> None:
    process = run(DIES_FULL, disk)
    out, _ = process.communicate()
    last = int(out)
    for shared in files(disk).folder.glob("*-shm"):
        shared.unlink()  # as after a restart of the machine

    found = numbers(await read_all(disk, name="r", advance=True))
    assert found[:last] == list(range(1, last + 1))
    assert inspect(disk)[0].segments == 1
    async with box(disk, SMALL).writer("e") as writer:
        assert (await writer.append(records(1)))[0] > last
    assert inspect(disk)[0].gaps == []


async def test_a_writer_starts_on_a_full_disk_once_the_reader_has_made_room(disk: Path) -> None:
    acknowledged = await fill(disk)
    await read_all(disk, name="r")  # it has a cursor; a new one needs a page
    stuff(disk)  # the reserve, too
    try:
        async with box(disk, SMALL).writer("e"):
            pass
    except StorageError as error:  # whether it needs a page depends on what the last one left
        assert "make room" in str(error)  # noqa: PT017 - likewise
    found = numbers(await read_all(disk, name="r", advance=True))
    assert found[: len(acknowledged)] == acknowledged
    async with box(disk, SMALL).writer("e") as writer:
        assert (await writer.append(records(1)))[0] > found[-1]
    assert inspect(disk)[0].quarantined == []


async def test_over_the_cap_segments_go_even_on_a_full_disk(disk: Path) -> None:
    limits = Limits(max_bytes=1 << 20, segment_bytes=1 << 18)
    async with box(disk, limits).writer("e") as writer:
        last = (await writer.append(records(100, size=300)))[-1]
        (disk / "stuff").write_bytes(bytes(1_200_000))
        for _ in range(100):
            last = (await writer.append(records(50, size=300)))[-1]
    found = numbers(await read_all(disk))
    assert found == list(range(found[0], last + 1))
    assert inspect(disk)[0].evicted == found[0] - 1 > 0


async def test_a_disk_that_turns_read_only_is_said_and_forgiven(disk: Path) -> None:
    async with box(disk, SMALL).writer("e") as writer, box(disk, SMALL).reader("s", "e", name="r") as reader:
        await writer.append(records(10))
        assert len(await reader.read(max_records=5, max_bytes=9999)) == 5
    subprocess.run(["/bin/mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StorageError, match="s/e"):
        async with box(disk, SMALL).writer("e"):
            pass
    with pytest.raises(StorageError, match=r"cursors|s/e"):
        async with box(disk, SMALL).reader("s", "e", name="new"):
            pass
    assert inspect(disk)[0].last_seq in (0, 10)
    subprocess.run(["/bin/mount", "-o", "remount,rw", disk], check=True)
    async with box(disk, SMALL).writer("e") as writer:
        assert await writer.append(records(1)) == [11]
    assert len(await read_all(disk)) == 11
    assert inspect(disk)[0].quarantined == []


DIES_FULL = """
import os, signal, sys
from pathlib import Path
from sparkd import Record, StorageError
from sparkd.outbox.files import Files
from sparkd.outbox.stream import open_stream
from sparkd.outbox.trim import Limits
with open_stream(Files(Path(sys.argv[1]) / "s" / "e"), Limits(segment_bytes=1 << 18)) as stream:
    last = 0
    try:
        while True:
            last = stream.append([Record(topic="t", body=b"x" * 300)] * 50, {})[-1]
    except StorageError:
        os.write(1, str(last).encode())
        with open(sys.argv[1] + "/stuff", "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass
        os.kill(os.getpid(), signal.SIGKILL)
"""
