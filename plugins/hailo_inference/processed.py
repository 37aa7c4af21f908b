"""The durable record of pictures that have been dealt with, so that none is published twice after a restart.

A picture is its content and its name: the key is a hash of both. A row is written only after the result is in the
outbox; should the process die between the two, the same key goes to the outbox again, which stores nothing twice.
The file's stamp (inode, time, size) spares reading files again that have not changed.

Beside the record lies a note of the picture being looked at now. If a picture kills the process (a decoder's bug, the
kernel when memory is short), the note counts how often, so that one picture cannot stop all others.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from sparkd import StorageError

REMEMBERED = 100_000
"""So many rows are kept of files that are no longer there; about 20 MB. Rows of files that are there always stay."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS processed (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name BLOB NOT NULL, stamp TEXT NOT NULL, problem TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS processed_by_name ON processed (name);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a picture; `problem` says why it was refused, if it was."""

    key: str
    problem: str


class Processed:
    """An open record. Blocking; used by one thread at a time. Writing raises StorageError if the disk refuses."""

    def __init__(self, path: Path) -> None:
        """Open or make the record at *path*; a damaged one is put aside as `PATH.damaged-TIME`."""
        self.damaged: Path | None = None
        try:
            with _refused(path):
                self._db = _connect(path)
        except sqlite3.DatabaseError:
            self.damaged = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
            path.rename(self.damaged)
            for leftover in (f"{path}-wal", f"{path}-shm"):
                Path(leftover).unlink(missing_ok=True)
            self._db = _connect(path)
        self._path, self._note = path, path.with_suffix(".begun")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._db.close()

    def find(self, key: str) -> Entry | None:
        """Return what is remembered under *key*."""
        row = self._db.execute("SELECT key, problem FROM processed WHERE key = ?", (key,)).fetchone()
        return Entry(*row) if row else None

    def find_unchanged(self, name: str, stamp: str) -> Entry | None:
        """Return what is remembered of the file *name* if its stamp is still the same."""
        row = self._db.execute(
            "SELECT key, problem FROM processed WHERE name = ? AND stamp = ?", (os.fsencode(name), stamp)
        ).fetchone()
        return Entry(*row) if row else None

    def begin(self, key: str) -> int:
        """Note that the picture *key* is about to be looked at; say how often in a row that was begun before.

        The note is not synced: it has to outlive the process, not the machine.
        """
        try:
            last, _, count = self._note.read_text("ascii").partition(" ")
            before = int(count) if last == key else 0
        except (OSError, ValueError):  # no note, or a torn one
            before = 0
        with suppress(OSError):  # a full disk: then this picture is not counted
            self._note.write_text(f"{key} {before + 1}", "ascii")
        return before

    def forgive(self) -> None:
        """Forget what was begun last: it failed through no fault of the picture."""
        with suppress(OSError):
            self._note.unlink(missing_ok=True)

    def remember(self, key: str, name: str, stamp: str, *, problem: str = "") -> None:
        """Write down, synced, that the picture *key* has been dealt with."""
        with _refused(self._path):
            self._db.execute(
                "INSERT INTO processed (key, name, stamp, problem) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET stamp = excluded.stamp",
                (key, os.fsencode(name), stamp, problem),
            )

    def forget_gone(self, folder: Path, *, remembered: int = REMEMBERED) -> int:
        """Drop the oldest rows whose files are no longer in *folder*, all but the newest *remembered*; say how many."""
        (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM processed").fetchone()
        old = self._db.execute("SELECT id, name FROM processed WHERE id <= ?", (last - remembered,)).fetchall()
        gone = [(number,) for number, name in old if not (folder / os.fsdecode(name)).exists()]
        with _refused(self._path), self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM processed WHERE id = ?", gone)
        return len(gone)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Name the disk as the culprit. What is left a DatabaseError is damage."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path}: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # The worker threads of anyio take turns; isolation_level None: every statement is its own transaction.
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_SCHEMA)
        _check(db)
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection) -> None:
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
