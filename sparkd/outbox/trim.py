"""Removing what is no longer wanted: segments that all readers have passed, and by the caps what is too much."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from dataclasses import dataclass

from sparkd.lasting import sync_folder
from sparkd.outbox.cursor import read_cursor
from sparkd.outbox.files import Files, locked
from sparkd.outbox.losses import note_evicted
from sparkd.outbox.segment import open_to_read
from sparkd.steps import reached

TRIM_LOCK_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a stream may hold. Beyond it the oldest segments go, and are counted as evicted."""

    max_bytes: int = 1 << 30
    max_age_s: float = 0.0
    """0 for no limit; judged by the time a segment was last written."""
    segment_bytes: int = 16 << 20
    max_dead: int = 10_000

    @property
    def rotate_at(self) -> int:
        """The size at which a segment is sealed: small enough that the cap can be kept by whole segments."""
        return min(self.segment_bytes, max(self.max_bytes // 4, 64 << 10))


def trim(files: Files, limits: Limits | None, *, clock_synchronised: bool = False) -> int:
    """Remove segments that all have passed, and by *limits* what is too much; return how many.

    The limits are the writer's; a reader gives None. Raises OSError or StorageError if it cannot.
    """
    with locked(files.folder / "trim.lock", limit_s=TRIM_LOCK_LIMIT_S):
        firsts = files.segments()
        removed = 0
        passed = passed_by_all(files)
        for first, following in itertools.pairwise(firsts):
            if passed is not None and following - 1 <= passed:
                _remove(files, first)
            elif limits and _too_much(files, first, limits, clock_synchronised=clock_synchronised):
                _evict(files, first, following - 1, passed or 0)
            else:
                break
            removed += 1
        if removed:
            sync_folder(files.folder)
        return removed


def passed_by_all(files: Files) -> int | None:
    """Return the number that every reader has passed; None if there is no reader, and so nobody to say."""
    if not files.cursors.is_dir():
        return None
    return min((read_cursor(path) for path in files.cursors.iterdir() if path.suffix != ".part"), default=None)


def _too_much(files: Files, first: int, limits: Limits, *, clock_synchronised: bool) -> bool:
    if files.bytes() > limits.max_bytes:
        return True
    if not limits.max_age_s or not clock_synchronised:
        return False
    return time.time() - files.segment(first).stat().st_mtime > limits.max_age_s


def _evict(files: Files, first: int, last: int, passed: int) -> None:
    """Remove a segment that somebody still wants; count its records from *passed* on."""
    count = max(_last_stored(files, first, last) - max(first - 1, passed), 0)
    try:
        note_evicted(files, count, last)
    except OSError:  # no room for the account: it is made by what is removed
        _remove(files, first)
        note_evicted(files, count, last)
    else:
        _remove(files, first)


def _last_stored(files: Files, first: int, last: int) -> int:
    """Return the last number stored in a segment; numbers beyond it up to *last* were skipped by a repair."""
    try:
        with contextlib.closing(open_to_read(files.segment(first), sealed=True)) as db:
            held = db.execute("SELECT max(seq) FROM records").fetchone()[0]
    except (sqlite3.Error, FileNotFoundError):
        return last
    return min(int(held), last) if held is not None else first - 1


def _remove(files: Files, first: int) -> None:
    path = files.segment(first)
    reached("outbox.before-unlink")
    # The segment itself last: its side files without it would belong to nothing.
    for name in (f"{path.name}-wal", f"{path.name}-shm", path.name):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(name).unlink()
    reached("outbox.after-unlink")
