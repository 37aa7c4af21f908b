"""Segments that SQLite cannot read: what is whole is saved, the file is kept aside, what is missing is told.

A repair has one moment at which it counts: the renaming to `.saved`. Before it nothing has changed; after it
`finish_repairs` puts the saved segment into the damaged one's place, by whoever comes next if this process dies.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from sparkd.lasting import sync_folder
from sparkd.outbox.files import SUFFIX, Files, is_damage
from sparkd.outbox.losses import note_gap
from sparkd.outbox.pages import is_cut, rows_in_pages
from sparkd.outbox.segment import EPOCH_MARK, SIDES, Row, Segment, open_to_read, stored_of

MAX_PER_SEGMENT = 1 << 20
"""More records than any segment of the default size holds: numbers this far on are certainly unused."""
_LEAST_ROW_BYTES = 16
_DAMAGED = "damaged on disk; see quarantine/"
_AT_MOST = "at the most: damaged on disk, see quarantine/"
_MAKING = ".saving"
_SAVED = ".saved"


def repair(files: Files, first: int, *, last: int, known: bool = True) -> None:
    """Replace segment *first* by what can be read of it, if anything is wrong with it.

    *last* is its last number; not *known*, its last number is at the most this. The caller holds the trim lock, and
    nobody writes to the segment.
    """
    finish_repairs(files)
    path = files.segment(first)
    cut = is_cut(path.with_name(f"{path.name}-wal"))
    whole = is_whole(path)
    rows = _salvage(path, first, last)
    if whole and not cut and _numbers(path) == len(rows):
        if not known:
            note_gap(files, max(rows[-1][0] if rows else 0, first - 1) + 1, last, _AT_MOST)
        return
    marks, keys = _read_marks(path) or _marks_before(files, first), _keys(path)
    _save(path, first, rows, marks, keys)
    finish_repairs(files)
    expected = first
    for number in [*(row[0] for row in rows), last + 1]:
        if number > expected:
            note_gap(files, expected, number - 1, _DAMAGED if known or number <= last else _AT_MOST)
        expected = number + 1


def upper_bound(files: Files, first: int) -> int:
    """Return a number that segment *first* has certainly not reached, by its size."""
    path = files.segment(first)
    sizes = [side.stat().st_size for side in (path, path.with_name(f"{path.name}-wal")) if side.exists()]
    return first + max(MAX_PER_SEGMENT, sum(sizes) // _LEAST_ROW_BYTES)


def finish_repairs(files: Files) -> None:
    """Put what has been saved into its place; the damaged files go to the quarantine. Under the trim lock."""
    for unfinished in (*files.folder.glob(f"*{_MAKING}*"), *files.folder.glob("*.new*")):
        unfinished.unlink(missing_ok=True)
    for saved in files.folder.glob(f"*{_SAVED}"):
        path = saved.with_suffix(SUFFIX)
        files.quarantine.mkdir(mode=0o750, exist_ok=True)
        aside = files.quarantine / f"{path.name}.{time.time_ns()}"
        for suffix in SIDES:  # before the segment: a WAL beside the new file would be taken for its own
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)
        saved.rename(path)
        sync_folder(files.quarantine)
        sync_folder(files.folder)


def read_around(db: sqlite3.Connection, begin: int, until: int) -> Iterator[Row]:
    """Yield the rows from *begin* to before *until* that can be read; where a read fails, its halves are tried."""
    query = "SELECT * FROM records WHERE seq >= ? AND seq < ? ORDER BY seq"
    try:
        rows = db.execute(query, (begin, until)).fetchall()
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        if until - begin > 1:
            middle = (begin + until) // 2
            yield from read_around(db, begin, middle)
            yield from read_around(db, middle, until)
    else:
        yield from rows


def is_whole(path: Path) -> bool:
    """Whether SQLite finds the segment whole. Raises sqlite3.Error if the disk does not let it look."""
    try:
        with closing(open_to_read(path, sealed=True)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return False
        raise


def _numbers(path: Path) -> int:
    """Return how many records SQLite sees in the segment at *path*; -1 if it cannot say."""
    try:
        with closing(open_to_read(path, sealed=True)) as db:
            return int(db.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.DatabaseError:
        return -1


def _salvage(path: Path, first: int, last: int) -> list[Row]:
    """Return the whole rows, in order: what SQLite reads, and what else is in the pages."""
    found: dict[int, Row] = {}
    with contextlib.suppress(sqlite3.DatabaseError), closing(open_to_read(path, sealed=True)) as db:
        for row in db.execute("SELECT * FROM records ORDER BY seq"):
            if stored_of(row) is not None:
                found[row[0]] = row
    found = rows_in_pages(path) | found
    return [found[seq] for seq in sorted(found) if first <= seq <= last]


def _save(
    path: Path, first: int, rows: Iterable[Row], marks: Mapping[str, bytes], keys: Iterable[tuple[str, int]]
) -> None:
    making = path.with_suffix(_MAKING)
    saved = Segment.create(making, first=first, marks=marks, keys=keys)
    try:
        saved.insert(rows)
    finally:
        saved.seal()
    sync_folder(path.parent)
    making.rename(path.with_suffix(_SAVED))
    sync_folder(path.parent)


def _read_marks(path: Path) -> dict[str, bytes]:
    try:
        with closing(open_to_read(path, sealed=True)) as db:
            found = dict(db.execute("SELECT name, value FROM marks"))
    except (sqlite3.DatabaseError, FileNotFoundError):
        return {}
    sane = all(isinstance(name, str) and isinstance(value, bytes) for name, value in found.items())
    return found if sane and EPOCH_MARK in found else {}


def _marks_before(files: Files, first: int) -> dict[str, bytes]:
    """Return the marks as the segments before *first* have them: older, but better than none."""
    earlier = (number for number in reversed(files.segments()) if number < first)
    return next((marks for number in earlier if (marks := _read_marks(files.segment(number)))), {})


def _keys(path: Path) -> list[tuple[str, int]]:
    try:
        with closing(open_to_read(path, sealed=True)) as db:
            return list(db.execute("SELECT key, seq FROM carried"))
    except sqlite3.DatabaseError:
        return []
