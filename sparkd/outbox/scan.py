"""Reading a stream across its segments: from a number on, whatever has been removed, sealed or damaged meanwhile."""

from __future__ import annotations

import bisect
import contextlib
import sqlite3
import time
from collections.abc import Callable
from typing import Never

from sparkd.errors import StorageError
from sparkd.outbox import damage
from sparkd.outbox.files import Files, give_up_reserve, locked, storage
from sparkd.outbox.losses import note_gap
from sparkd.outbox.segment import open_to_read, rows_after, stored_of
from sparkd.outbox.trim import TRIM_LOCK_LIMIT_S
from sparkd.service import Stored

_RECORD_OVERHEAD = 100


class _MendedError(Exception):
    """A damaged segment was replaced by what could be saved of it: read again."""


class _Taking:
    """One read: where it is, what it has, what it may still take."""

    def __init__(self, after: int, max_records: int, max_bytes: int) -> None:
        self.after, self.found, self.full = after, list[Stored](), False
        self._max_records, self._bytes_left = max_records, max_bytes

    @property
    def records_left(self) -> int:
        return self._max_records - len(self.found)

    def add(self, stored: Stored) -> bool:
        """Take *stored* if there is room; the first always has."""
        size = len(stored.record.body) + _RECORD_OVERHEAD
        if self.found and size > self._bytes_left:
            self.full = True
            return False
        self._bytes_left -= size
        self.found.append(stored)
        self.full = self.records_left == 0
        return True


class Scan:
    """Blocking reads of one stream; holds one open segment, never a transaction."""

    def __init__(self, files: Files, clock_is_synchronised: Callable[[], bool]) -> None:
        """Read the stream in *files*."""
        self._files = files
        self._clock_is_synchronised = clock_is_synchronised
        self._db: sqlite3.Connection | None = None
        self._open: tuple[int, bool] = (0, False)
        self.expired = self.damaged = 0

    def read(self, after: int, max_records: int, max_bytes: int) -> tuple[list[Stored], int]:
        """Return the records after *after* within the bounds, and the number up to which nothing more is to be read.

        That number is higher than the last record's where what follows has expired or is damaged.
        """
        taking = _Taking(after, max_records, max_bytes)
        while not taking.full:
            firsts = self._files.segments()
            if not firsts:
                break
            index = max(bisect.bisect_right(firsts, taking.after + 1) - 1, 0)
            sealed = index + 1 < len(firsts)
            try:
                self._read_segment(taking, firsts[index], firsts[index + 1] - 1 if sealed else None)
            except (FileNotFoundError, _MendedError):
                continue  # trimmed or mended since it was listed
            if not sealed:
                break
            if not taking.full:
                taking.after = max(taking.after, firsts[index + 1] - 1)
        return taking.found, taking.after

    def tail(self) -> int:
        """Return the last number of the stream; 0 if nothing was ever appended."""
        with storage(self._files.folder, "read"):
            firsts = self._files.segments()
            if not firsts:
                return 0
            db = self._connection(firsts[-1], sealed=False)
            held = db.execute("SELECT max(seq) FROM records").fetchone()[0]
            return int(held) if held is not None else firsts[-1] - 1

    def close(self) -> None:
        """Close the open segment."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read_segment(self, taking: _Taking, first: int, last: int | None) -> None:
        """Take from the segment that begins with *first*; *last* is its last number if it is sealed."""
        try:
            self._take_rows(taking, self._connection(first, sealed=last is not None))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN):
                self.close()
                give_up_reserve(self._files)
                raise StorageError(
                    f"{self._files.folder}: cannot read: {error}; try: make room on this disk"
                ) from error
            self._mend(first, last, error)
        except sqlite3.DatabaseError as error:
            self._mend(first, last, error)

    def _take_rows(self, taking: _Taking, db: sqlite3.Connection) -> None:
        now = time.time_ns() if self._clock_is_synchronised() else 0
        with contextlib.closing(rows_after(db, taking.after, taking.records_left)) as rows:
            for row in rows:
                stored = stored_of(row)
                if stored is None:
                    self.damaged += 1
                    note_gap(self._files, f"{row[0]}-{row[0]} has a wrong checksum")
                elif 0 < stored.record.expires_ns < now:
                    self.expired += 1
                elif not taking.add(stored):
                    return
                taking.after = row[0]

    def _mend(self, first: int, last: int | None, error: sqlite3.Error) -> Never:
        """Repair a sealed segment and let the caller read it again; of the last one the writer takes care."""
        self.close()
        if last is None:
            raise StorageError(
                f"{self._files.segment(first)}: damaged: {error}; it is mended when the service that writes it restarts"
            ) from error
        with locked(self._files.folder / "trim.lock", limit_s=TRIM_LOCK_LIMIT_S):
            if not damage.repair(self._files, first, last=last):
                raise StorageError(f"{self._files.segment(first)}: cannot be read: {error}") from error
        raise _MendedError

    def _connection(self, first: int, *, sealed: bool) -> sqlite3.Connection:
        if self._db is None or self._open != (first, sealed):
            self.close()
            self._db = open_to_read(self._files.segment(first), sealed=sealed)
            self._open = (first, sealed)
        return self._db
