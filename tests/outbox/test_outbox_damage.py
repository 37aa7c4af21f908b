"""Damaged files: the stream starts, what is whole is read, what is missing is told, no number is used twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sparkd import Record
from sparkd.outbox import Limits, dead_letters, inspect
from sparkd.outbox.pages import is_cut
from sparkd.outbox.stream import open_stream
from tests.outbox.disk import box, files, numbers, read_all, records, run

pytestmark = pytest.mark.anyio

PAGE = 4096
SMALL = Limits(segment_bytes=1 << 17)
COUNT = 1000
SIZE = 300

Harm = Callable[[Path], None]


def zero_page(path: Path) -> None:
    _write(path, _size(path) // PAGE // 2, bytes(PAGE))


def random_page(path: Path) -> None:
    _write(path, _size(path) // PAGE // 2, random.Random(1).randbytes(PAGE))


def ten_pages(path: Path) -> None:
    for page in range(10):
        _write(path, 6 + 2 * page, bytes(PAGE))


def last_page(path: Path) -> None:
    _write(path, _size(path) // PAGE - 1, bytes(PAGE))


def root_page(path: Path) -> None:
    for page in range(1, 6):  # the roots of all tables
        _write(path, page, bytes(PAGE))


def header(path: Path) -> None:
    _write(path, 0, b"\xff" * PAGE)


def truncated(path: Path) -> None:
    os.truncate(path, _size(path) * 2 // 3 + 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(50_000))


GARBAGE = [b"", b"\xff" * 700, b"{}", b"[1]", b'{"epoch": -3}', b'{"epoch": 1e400}', b"[" * 99999]
HARMS: list[Harm] = [zero_page, random_page, ten_pages, last_page, root_page, header, truncated, empty, garbage]


def _size(path: Path) -> int:
    return path.stat().st_size


def _write(path: Path, page: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(content)


def missing(root: Path) -> set[int]:
    """Return the numbers up to COUNT that the account says are gone."""
    ranges = [re.match(r"(\d+)-(\d+) ", gap) for gap in inspect(root)[0].gaps]
    return {n for found in ranges if found for n in range(int(found[1]), min(int(found[2]), COUNT) + 1)}


def fill(root: Path, limits: Limits) -> list[int]:
    """Make a stream of COUNT records; return the first numbers of its segments."""
    with open_stream(files(root), limits) as stream:
        for start in range(0, COUNT, 20):
            stream.append(records(20, start=start, size=SIZE), {"mark": b"%d" % start})
    return files(root).segments()


async def check(root: Path, *, lost: range) -> set[int]:
    """Start the writer, append and read; return the lost numbers, all of which must lie in *lost*."""
    async with box(root, SMALL).writer("e") as writer:
        fresh = await writer.append(records(3, start=5000))
    assert min(fresh) > COUNT
    found = await read_all(root)
    got = numbers(found)
    assert got == sorted(set(got))
    assert got[-3:] == fresh
    assert all(stored.record.body.startswith(b"%d:" % (stored.seq - 1)) for stored in found[:-3])
    gone = set(range(1, COUNT + 1)) - set(got)
    assert gone <= set(lost)
    assert gone == missing(root)
    async with box(root, SMALL).writer("e") as writer:
        assert min(await writer.append(records(1))) > max(fresh)
    assert await read_all(root, name="again") is not None
    assert gone == missing(root)
    return gone


@pytest.mark.parametrize("harm", HARMS)
async def test_a_damaged_segment_in_the_middle_costs_what_was_damaged(tmp_path: Path, harm: Harm) -> None:
    firsts = fill(tmp_path, SMALL)
    harm(files(tmp_path).segment(firsts[1]))

    gone = await check(tmp_path, lost=range(firsts[1], firsts[2]))

    assert len(gone) == 0 if harm in (root_page, header) else len(gone) > 0
    if harm in (zero_page, random_page, last_page):
        assert len(gone) < 20
    assert len(inspect(tmp_path)[0].quarantined) == 1


@pytest.mark.parametrize("harm", HARMS)
async def test_a_damaged_last_segment_costs_what_was_damaged(tmp_path: Path, harm: Harm) -> None:
    first = fill(tmp_path, SMALL)[-1]
    harm(files(tmp_path).segment(first))

    await check(tmp_path, lost=range(first, COUNT + 1))

    assert len(inspect(tmp_path)[0].quarantined) == 1
    async with box(tmp_path).writer("e") as writer:
        assert writer.mark("mark") is not None


@pytest.mark.parametrize("last", [False, True])
async def test_a_flipped_byte_costs_one_record(tmp_path: Path, *, last: bool) -> None:
    fill(tmp_path, SMALL if not last else Limits())
    path = files(tmp_path).segment(1)
    at = path.read_bytes().index(b"119:xxx")
    with path.open("r+b") as file:
        file.seek(at + 20)
        file.write(b"\xff")

    assert await check(tmp_path, lost=range(120, 121)) == {120}


async def test_bytes_that_are_no_text_cost_one_record(tmp_path: Path) -> None:
    fill(tmp_path, Limits())
    path = files(tmp_path).segment(1)
    at = path.read_bytes().index(b"t119:xxx")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff")

    assert await check(tmp_path, lost=range(120, 121)) == {120}


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_flipped_number_hides_no_other_record(tmp_path: Path, *, sealed: bool) -> None:
    fill(tmp_path, SMALL if sealed else Limits())
    path = files(tmp_path).segment(1)
    content = path.read_bytes()
    at = content.index(b"t119:xxx")
    start = content.rindex(bytes([120]), at - 60, at)  # the row's number, before its head
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\x7f")

    gone = await check(tmp_path, lost=range(110, 135))
    assert 120 in gone
    if sealed:
        assert gone == {120}


async def test_a_deleted_segment_in_the_middle_is_told(tmp_path: Path) -> None:
    firsts = fill(tmp_path, SMALL)
    files(tmp_path).segment(firsts[1]).unlink()

    assert await check(tmp_path, lost=range(firsts[1], firsts[2])) == set(range(firsts[1], firsts[2]))


async def test_a_deleted_last_segment_gives_no_number_away(tmp_path: Path) -> None:
    first = fill(tmp_path, SMALL)[-1]
    files(tmp_path).segment(first).unlink()

    assert await check(tmp_path, lost=range(first, COUNT + 1)) == set(range(first, COUNT + 1))


async def test_if_all_segments_are_deleted_readers_still_get_what_comes(tmp_path: Path) -> None:
    firsts = fill(tmp_path, SMALL)
    await read_all(tmp_path, name="old", advance=True)
    for first in (*firsts, *files(tmp_path).segments()):
        files(tmp_path).segment(first).unlink(missing_ok=True)

    async with box(tmp_path).writer("e") as writer:
        (fresh,) = await writer.append(records(1))

    assert fresh > COUNT
    assert numbers(await read_all(tmp_path, name="old")) == [fresh]


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 700, b"{}", b"[1]", b'{"epoch": -3}', b'{"epoch": 1e400}', b"[" * 99999]
)
@pytest.mark.parametrize("name", ["stream.json", "losses.json", "tick", "cursors/old", "reserve"])
async def test_garbage_in_the_small_files_stops_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    with open_stream(files(tmp_path), SMALL) as stream:
        stream.append(records(10), {})
        epoch = stream.epoch
    await read_all(tmp_path, name="old", advance=True)
    (files(tmp_path).folder / name).write_bytes(content)

    inspect(tmp_path)
    async with box(tmp_path).writer("e") as writer:
        assert writer.stream_id.epoch == epoch
        assert await writer.append(records(1)) == [11]
    assert numbers(await read_all(tmp_path, name="old"))[-1] == 11
    inspect(tmp_path)


async def test_losses_of_a_wrong_shape_are_none(tmp_path: Path) -> None:
    fill(tmp_path, SMALL)
    for content in ({"evicted": "x", "gaps": 3}, {"gaps": [1, [2], [1, 2, 3]], "evicted_through": -4}):
        files(tmp_path).losses.write_text(json.dumps(content))
        assert inspect(tmp_path)[0].gaps == []


WRITER = """
import os, signal, sys
from pathlib import Path
from sparkd import Record
from sparkd.outbox.files import Files
from sparkd.outbox.stream import open_stream
from sparkd.outbox.trim import Limits
with open_stream(Files(Path(sys.argv[1]) / "s" / "e"), Limits()) as stream:
    for start in range(0, 1000, 20):
        stream.append([Record(topic="t", body=b"%d:" % (start + n) + b"x" * 300) for n in range(20)], {})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("at", [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("tick", [True, False])
async def test_a_damaged_wal_of_a_killed_writer_gives_no_number_away(tmp_path: Path, at: float, *, tick: bool) -> None:
    run(WRITER, tmp_path).communicate()
    (wal,) = files(tmp_path).folder.glob("*-wal")
    assert not is_cut(wal)
    place = 8 if at == 0 else int(_size(wal) * at) // (PAGE + 24) * (PAGE + 24) + 32 + 2000
    with wal.open("r+b") as file:
        file.seek(place)
        file.write(b"\x55" * 40)
    assert is_cut(wal)
    if not tick:  # as after a power cut
        files(tmp_path).tick.write_bytes(b"")

    await check(tmp_path, lost=range(1, COUNT + 1))


async def test_a_wal_that_is_cut_short_is_noticed_by_the_tick(tmp_path: Path) -> None:
    run(WRITER, tmp_path).communicate()
    (wal,) = files(tmp_path).folder.glob("*-wal")
    os.truncate(wal, 32)

    gone = await check(tmp_path, lost=range(1, COUNT + 1))
    assert gone


async def test_left_overs_of_a_killed_rotation_or_repair_do_no_harm(tmp_path: Path) -> None:
    firsts = fill(tmp_path, SMALL)
    folder = files(tmp_path).folder
    for name in ("00000000000000001001.new", "00000000000000001001.new-wal", "00000000000000000001.saving-wal"):
        (folder / name).write_bytes(b"left over")
    shutil.copy(files(tmp_path).segment(firsts[1]), files(tmp_path).segment(firsts[1]).with_suffix(".saved"))
    files(tmp_path).segment(firsts[1]).unlink()  # killed between the two renamings

    assert await check(tmp_path, lost=range(0)) == set()
    assert not list(folder.glob("*.new*")) + list(folder.glob("*.sav*"))


async def test_the_segment_in_use_is_read_around_and_mended_by_its_writer(tmp_path: Path) -> None:
    async with box(tmp_path).writer("e") as writer:
        await writer.append(records(COUNT, size=SIZE))
        await writer.append(records(1, size=600_000))  # folds the WAL
        zero_page(files(tmp_path).segment(1))
        found = numbers(await read_all(tmp_path))
        assert len(found) > COUNT // 2
        _write(files(tmp_path).segment(1), _size(files(tmp_path).segment(1)) // PAGE, bytes(PAGE))
        header(files(tmp_path).segment(1))
    async with box(tmp_path).writer("e") as writer:
        assert (await writer.append(records(1)))[0] > COUNT + 1


async def test_damaged_dead_letters_hold_nothing_up(tmp_path: Path) -> None:
    fill(tmp_path, SMALL)
    async with box(tmp_path).reader("s", "e", name="r") as reader:
        stored = (await reader.read(max_records=1, max_bytes=1))[0]
        await reader.reject(stored, "first")
        files(tmp_path).dead.write_bytes(b"garbage" * 1000)
        assert "cannot count the dead letters" in inspect(tmp_path)[0].gaps[0]
        await reader.reject(stored, "second")
    assert [letter.reason for letter in dead_letters(tmp_path, "s", "e")] == ["second"]


@pytest.mark.parametrize("size", [0, 3000, 5000, 9000, 100_000])
async def test_long_records_are_saved_whole(tmp_path: Path, size: int) -> None:
    with open_stream(files(tmp_path), Limits()) as stream:
        for n in range(COUNT // 100):
            extra = Record(topic="t", body=b"%d:" % n + b"y" * size, key=f"k{n}", trace=b"t" * 16, expires_ns=2**62)
            stream.append([extra], {})
    header(files(tmp_path).segment(1))
    async with box(tmp_path).writer("e") as writer:
        await writer.append([])
    found = await read_all(tmp_path)
    assert all(len(stored.record.body) == size + 2 for stored in found)
    assert len(found) == COUNT // 100 if size > 3000 else found
