"""Segments that SQLite cannot read: what is whole is saved, the file is kept aside, what is missing is told."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sparkd.outbox.files import Files, sync_folder
from sparkd.outbox.losses import note_gap
from sparkd.outbox.segment import _INSERT, Row, Segment, stored_of

MAX_PER_SEGMENT = 1 << 20
"""More records than any segment holds (16 MiB at 16 bytes): numbers this far on are certainly unused."""
_CHUNK = 64
_STEPS = (64, 8, 1)


def repair(files: Files, first: int, *, last: int | None) -> bool:
    """Replace segment *first* by what can be read of it; return whether anything was wrong.

    *last* is its last number if known. The caller holds the trim lock, and nobody writes to the segment.
    """
    path = files.segment(first)
    rows, bad = salvage(path, first, last)
    if not bad:
        return False
    marks = _marks(path)
    aside = files.quarantine / f"{path.name}.{time.time_ns()}"
    files.quarantine.mkdir(mode=0o750, exist_ok=True)
    replacement = path.with_suffix(".saved")
    replacement.unlink(missing_ok=True)
    saved = Segment.create(replacement, first=first, marks=marks, keys=())
    saved._db.execute("BEGIN")  # noqa: SLF001 - rows go in as they are, checksums and all
    saved._db.executemany(_INSERT, rows)  # noqa: SLF001 - likewise
    saved._db.execute("COMMIT")  # noqa: SLF001 - likewise
    saved.seal()
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(aside.with_name(aside.name + suffix))
    path.rename(aside)
    replacement.rename(path)
    sync_folder(files.folder)
    end = last if last is not None else first + MAX_PER_SEGMENT - 1
    for begin, until in _gaps([row[0] for row in rows], first, end):
        open_end = " at the most" if last is None and until == end else ""
        note_gap(files, f"{begin}-{until}{open_end} damaged on disk; see quarantine/{aside.name}")
    return True


def salvage(path: Path, first: int, last: int | None) -> tuple[list[Row], bool]:
    """Return the rows of a segment that are whole, and whether any were not."""
    try:
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error:
        return [], True
    with closing(db):
        try:
            whole = db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            end = last if last is not None else _last_number(db, first)
        except sqlite3.DatabaseError:
            whole, end = False, last if last is not None else first + MAX_PER_SEGMENT
        if not _readable(db):
            return [], True
        rows = [row for row in _read_around(db, first, end) if stored_of(row) is not None]
    return rows, not whole or len(rows) < end - first + 1


def _readable(db: sqlite3.Connection) -> bool:
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        return False
    return True


def _last_number(db: sqlite3.Connection, first: int) -> int:
    held = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
    return int(held[0]) if held else first - 1


def _read_around(db: sqlite3.Connection, first: int, last: int) -> Iterator[Row]:
    """Yield what can be read between *first* and *last*; where a read fails, smaller steps go around it."""
    begin = first
    while begin <= last:
        until = min(begin + _CHUNK, last + 1)
        yield from _read_range(db, begin, until, _CHUNK)
        begin = until


def _read_range(db: sqlite3.Connection, begin: int, until: int, step: int) -> Iterator[Row]:
    query = "SELECT * FROM records WHERE seq >= ? AND seq < ? ORDER BY seq"
    try:
        yield from db.execute(query, (begin, until)).fetchall()
    except (sqlite3.DatabaseError, OverflowError):
        smaller = next((s for s in _STEPS if s < step), 0)
        if smaller:
            for part in range(begin, until, smaller):
                yield from _read_range(db, part, min(part + smaller, until), smaller)


def _marks(path: Path) -> dict[str, bytes]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            return dict(db.execute("SELECT name, value FROM marks"))
    except sqlite3.Error:
        return {}


def _gaps(numbers: list[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    expected = first
    for number in numbers:
        if number > expected:
            yield expected, number - 1
        expected = number + 1
    if expected <= last:
        yield expected, last
