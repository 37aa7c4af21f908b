"""The files of a stream, and what keeps them whole: names, syncs, the reserve, the locks.

<root>/<service>/<stream>/
    stream.json             which life of the stream this is (its epoch)
    <first seq>.seg         segments, SQLite; the last one is being written
    cursors/<reader>        how far each reader has come
    tick                    the last number, written after each commit: readers watch it
    reserve                 256 KiB given up when the disk is full, so that trimming can go on
    losses.json             what is gone for good: evicted, damaged
    <first seq>.saved       what was saved of a damaged segment, about to take its place
    dead, retry             dead letters, SQLite; there while some of them are to be appended again
    quarantine/             damaged segments, kept aside
    lock, trim.lock         one writer; one that removes or mends segments
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkd.errors import StorageError

RESERVE_BYTES = 256 << 10
"""What SQLite needs to read a WAL and write a few pages; measured: 15,000 records were appended while trimming."""
SUFFIX = ".seg"
LOCK_LIMIT_S = 3.0
"""How long a writer waits for a predecessor that is just dying."""


@dataclass(frozen=True, slots=True)
class Files:
    """The paths of one stream."""

    folder: Path

    @property
    def identity(self) -> Path:
        """Where the epoch is kept."""
        return self.folder / "stream.json"

    @property
    def cursors(self) -> Path:
        """The folder of the readers' cursors."""
        return self.folder / "cursors"

    @property
    def tick(self) -> Path:
        """The file that readers watch."""
        return self.folder / "tick"

    @property
    def reserve(self) -> Path:
        """Space kept for a full disk."""
        return self.folder / "reserve"

    @property
    def losses(self) -> Path:
        """The account of what is gone."""
        return self.folder / "losses.json"

    @property
    def dead(self) -> Path:
        """The dead letters."""
        return self.folder / "dead"

    @property
    def retry(self) -> Path:
        """There while the writer is to append dead letters again."""
        return self.folder / "retry"

    @property
    def quarantine(self) -> Path:
        """The folder of damaged segments."""
        return self.folder / "quarantine"

    def segment(self, first: int) -> Path:
        """The segment that begins with sequence number *first*."""
        return self.folder / f"{first:020d}{SUFFIX}"

    def segments(self) -> list[int]:
        """Return the first sequence numbers of the segments there are, in order."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.partition(".")
                if f".{suffix}" == SUFFIX and stem.isdigit():
                    found.append(int(stem))
        return sorted(found)

    def bytes(self) -> int:
        """Return how much the segments take on disk."""
        total = 0
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if SUFFIX in entry.name:
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat().st_size
        return total


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR})
"""The last one stands for tables that are not there."""
_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})


def is_damage(error: sqlite3.Error) -> bool:
    """Whether *error* means that the file itself is broken; not that the disk is full or locked, or the call wrong."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python's own errors: an OperationalError is about a text that is none
        return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)
    return code in _UNREADABLE or code & 0xFF in _DAMAGE


@contextlib.contextmanager
def storage(path: Path, deed: str) -> Iterator[None]:
    """Turn what the disk or SQLite raises into a StorageError that says what, where, and what to try."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = "make room on this disk" if _is_full(path, error) else "see the disk's health and this folder's rights"
        raise StorageError(f"{path}: cannot {deed}: {error}; try: {remedy}") from error
    except (sqlite3.DatabaseError, OSError) as error:
        raise StorageError(f"{path}: cannot {deed}: {error}; try: see the disk's space, health and rights") from error


def _is_full(path: Path, error: sqlite3.Error) -> bool:
    """Whether *error* comes of a full disk; SQLite calls what it cannot extend an I/O error, too."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
        return True
    with contextlib.suppress(OSError):
        room = os.statvfs(path if path.exists() else path.parent)
        return room.f_bavail * room.f_frsize < RESERVE_BYTES and not room.f_flag & os.ST_RDONLY
    return False


def read_json(path: Path) -> dict[str, Any]:
    """Return what is in *path*; an empty dict if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def keep_reserve(files: Files) -> None:
    """Set the reserve aside, really allocated, if there is room for it twice."""
    with contextlib.suppress(OSError):
        if files.reserve.exists() and files.reserve.stat().st_blocks * 512 >= RESERVE_BYTES:
            return
        room = os.statvfs(files.folder)
        if room.f_bavail * room.f_frsize >= 2 * RESERVE_BYTES:
            descriptor = os.open(files.reserve, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)


def give_up_reserve(files: Files) -> None:
    """Free the reserve: the disk is full."""
    with contextlib.suppress(OSError):
        os.truncate(files.reserve, 0)


def has_room(files: Files) -> bool:
    """Whether there is room for the reserve and something to write."""
    room = os.statvfs(files.folder)
    held = files.reserve.stat().st_blocks * 512 if files.reserve.exists() else 0
    return room.f_bavail * room.f_frsize + held >= 2 * RESERVE_BYTES


@contextlib.contextmanager
def locked(path: Path, *, limit_s: float) -> Iterator[None]:
    """Hold the lock file *path*. Raises StorageError if another process holds it for longer than *limit_s*."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for_lock(descriptor, path, limit_s)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, path: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                what = f"{path}: held by another process for {limit_s:g} s; a stream has one writer"
                raise StorageError(f"{what}; try: stop the other one (fuser {path})") from None
            time.sleep(0.01)  # noqa: TID251 - in a worker thread; flock has no time limit of its own
        else:
            return
