"""The watched folder: order, whole files only, nothing twice, nothing outside."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sparkd import DeviceError
from sparkd_plugins.hailo_inference.processed import Processed
from sparkd_plugins.hailo_inference.sources import (
    Arrival,
    examine,
    first_seen_ns,
    key_of,
    settle,
    stamp_of,
    waiting,
    wanted,
    watching,
)

S = 1_000_000_000
NOW = 2_000_000_000 * S


async def next_name(names: AsyncIterator[str]) -> str:
    with anyio.fail_after(10):
        return await anext(names)


def put(folder: Path, name: str, content: bytes = b"picture", *, mtime_s: int | None = None) -> Path:
    path = folder / name
    path.write_bytes(content)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))
    return path


def look(folder: Path, name: str, tmp_path: Path, *, max_bytes: int = 1000) -> Arrival | None:
    with Processed(tmp_path / "record.sqlite") as processed:
        return examine(folder, name, processed=processed, max_bytes=max_bytes, now_ns=NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["a.jpg", "B.JPEG", "c.Png", "d e.webp", "f.bmp"])
def test_pictures_are_wanted(name: str) -> None:
    assert wanted(name)


@pytest.mark.parametrize("name", [".a.jpg", "a.jpg.part", "a.tmp", "jpg", "Thumbs.db", ".hidden", "a.gif"])
def test_other_files_are_not(name: str) -> None:
    assert not wanted(name)


@pytest.mark.parametrize(
    ("mtime", "ctime", "expected"),
    [
        (NOW - 5 * S, NOW - 5 * S, NOW - 5 * S),
        (NOW - 7200 * S, NOW - 7199 * S, NOW - 7200 * S),  # waited two hours: that is its true age
        (NOW - 7200 * S, NOW - 1 * S, NOW),  # copied with its old time
        (NOW + 60 * S, NOW, NOW),
        (0, 0, NOW),
        (-5, NOW, NOW),
    ],
)
def test_a_file_s_time_is_believed_only_if_it_can_be(mtime: int, ctime: int, expected: int) -> None:
    assert first_seen_ns(mtime_ns=mtime, ctime_ns=ctime, now_ns=NOW) == expected


def test_the_key_is_of_content_and_name() -> None:
    keys = {key_of("a.jpg", b"x"), key_of("b.jpg", b"x"), key_of("a.jpg", b"y"), key_of("caf\udce9.jpg", b"x")}

    assert len(keys) == 4
    assert key_of("a.jpg", b"x") in keys


def test_what_waits_comes_oldest_first(folder: Path) -> None:
    put(folder, "z.jpg", mtime_s=100)
    put(folder, "b.jpg", mtime_s=200)
    put(folder, "a.jpg", mtime_s=200)
    put(folder, "notes.txt", mtime_s=50)
    (folder / "folder.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "z.jpg")

    assert waiting(folder) == ["z.jpg", "a.jpg", "b.jpg"]


@pytest.mark.anyio
async def test_existing_files_come_first_then_those_that_arrive_whole(folder: Path, tmp_path: Path) -> None:
    put(folder, "old.jpg", mtime_s=100)
    async with watching(folder) as names:
        assert await next_name(names) == "old.jpg"
        half = (folder / "half.jpg").open("wb")
        half.write(b"half")
        half.flush()
        put(folder, ".hidden.jpg")
        put(folder, "notes.txt")
        (folder / "sub.jpg").mkdir()
        put(folder, "whole.jpg")
        put(tmp_path, "elsewhere.tmp").rename(folder / "moved.jpg")
        assert await next_name(names) == "whole.jpg"
        assert await next_name(names) == "moved.jpg"
        half.close()
        assert await next_name(names) == "half.jpg"


@pytest.mark.anyio
async def test_a_file_that_comes_between_watching_and_looking_is_not_missed(folder: Path) -> None:
    async with watching(folder) as names:
        put(folder, "early.jpg")

        assert await next_name(names) == "early.jpg"


@pytest.mark.anyio
async def test_a_folder_that_overflows_the_kernel_s_queue_is_read_again(folder: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 20_000:
        pytest.skip(f"this kernel queues {limit} events")
    async with watching(folder) as names:
        put(folder, "first.jpg")
        assert await next_name(names) == "first.jpg"
        for number in range(limit + 50):  # the same two in turn: the kernel merges only neighbours
            put(folder, f"{number % 2}.jpg")
        put(folder, "last.jpg")
        seen = ""
        while seen != "last.jpg":
            seen = await next_name(names)


@pytest.mark.anyio
async def test_a_folder_that_is_missing_or_goes_is_a_device_error(folder: Path) -> None:
    with pytest.raises(DeviceError, match="No such file or directory") as caught:
        async with watching(folder / "missing"):
            pass
    assert "`watch`" in caught.value.remedy

    with pytest.raises(DeviceError, match="Not a directory"):
        async with watching(put(folder, "file")):
            pass

    (folder / "file").unlink()
    async with watching(folder) as names:
        folder.rmdir()
        with pytest.raises(DeviceError, match="No such file or directory"):
            await next_name(names)

    folder.mkdir()
    path = put(folder, "a.jpg")
    async with watching(folder) as names:
        assert await next_name(names) == "a.jpg"
        path.unlink()
        folder.rmdir()
        with pytest.raises(DeviceError, match="removed, moved or unmounted"):
            await next_name(names)


def test_a_new_picture_is_read(folder: Path, tmp_path: Path) -> None:
    path = put(folder, "a.jpg", b"content")

    arrival = look(folder, "a.jpg", tmp_path)

    assert arrival == Arrival(
        "a.jpg", key_of("a.jpg", b"content"), stamp_of(path.stat()), b"content", path.stat().st_mtime_ns
    )


def test_a_picture_still_being_written_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with (folder / "a.jpg").open("wb") as file:
        file.write(b"half")
        file.flush()
        assert look(folder, "a.jpg", tmp_path) is None

    assert look(folder, "a.jpg", tmp_path) is not None


def test_looking_does_not_disturb_a_writer_that_comes_at_the_same_time(folder: Path, tmp_path: Path) -> None:
    path = put(folder, "a.jpg")
    done = threading.Event()

    def keep_writing() -> None:
        for _ in range(300):
            with path.open("ab") as file:
                file.write(b"x")
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    while not done.is_set():
        look(folder, "a.jpg", tmp_path)
    writer.join()

    assert path.stat().st_size == len(b"picture") + 300


@pytest.mark.parametrize("kind", ["gone", "link", "pipe", "folder", "socket"])
def test_what_is_no_plain_file_is_left_alone(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / "a.jpg"
    if kind == "link":
        path.symlink_to(put(tmp_path, "secret"))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "folder":
        path.mkdir()

    assert look(folder, "a.jpg", tmp_path) is None


def test_a_file_that_is_too_large_is_refused_unread(folder: Path, tmp_path: Path) -> None:
    put(folder, "a.jpg", b"x" * 1001)

    arrival = look(folder, "a.jpg", tmp_path)

    assert arrival is not None
    assert (arrival.content, arrival.problem) == (b"", "the file has 1001 bytes, more than max_bytes = 1000")


def test_what_was_dealt_with_is_known_by_stamp_or_by_content(folder: Path, tmp_path: Path) -> None:
    path = put(folder, "a.jpg", b"content")
    key = key_of("a.jpg", b"content")
    with Processed(tmp_path / "record.sqlite") as processed:
        processed.remember(key, "a.jpg", stamp_of(path.stat()), problem="why")
    unchanged = look(folder, "a.jpg", tmp_path)
    os.utime(path, (5, 5))
    touched = look(folder, "a.jpg", tmp_path)
    path.write_bytes(b"other content")
    other = look(folder, "a.jpg", tmp_path)

    assert unchanged is not None
    assert touched is not None
    assert other is not None
    assert (unchanged.known, unchanged.problem) == (True, "why")
    assert (touched.known, touched.problem, touched.content) == (True, "why", b"")
    assert not other.known


def arrival_of(path: Path, *, problem: str = "") -> Arrival:
    return Arrival(path.name, "0123456789abcdef", stamp_of(path.stat()), problem=problem)


@pytest.mark.parametrize(
    ("after", "problem", "left"),
    [
        ("keep", "", ["a.jpg"]),
        ("keep", "bad", ["a.jpg"]),
        ("delete", "", []),
        ("delete", "bad", ["a.jpg"]),
        ("move", "", ["done", "done/a.jpg"]),
        ("move", "bad", ["bad", "bad/a.jpg"]),
    ],
)
def test_what_becomes_of_a_picture(folder: Path, after: str, problem: str, left: list[str]) -> None:
    path = put(folder, "a.jpg")

    settle(folder, arrival_of(path, problem=problem), after=after)

    assert sorted(str(found.relative_to(folder)) for found in folder.rglob("*")) == left


def test_moving_away_overwrites_nothing(folder: Path) -> None:
    for content in (b"first", b"second"):
        settle(folder, arrival_of(put(folder, "a.jpg", content)), after="move")

    assert sorted(path.name for path in (folder / "done").iterdir()) == ["a.0123456789ab.jpg", "a.jpg"]
    assert (folder / "done" / "a.jpg").read_bytes() == b"first"


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_picture_that_was_replaced_meanwhile_stays(folder: Path, after: str) -> None:
    arrival = arrival_of(put(folder, "a.jpg"))
    put(folder, "a.jpg", b"a new and longer one")

    settle(folder, arrival, after=after)

    assert (folder / "a.jpg").read_bytes() == b"a new and longer one"


@pytest.mark.parametrize("after", ["delete", "move"])
def test_a_picture_that_is_gone_already_is_no_error(folder: Path, after: str) -> None:
    path = put(folder, "a.jpg")
    arrival = arrival_of(path)
    path.unlink()

    settle(folder, arrival, after=after)
