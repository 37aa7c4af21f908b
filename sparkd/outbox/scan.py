"""Reading a stream across its segments: from a number on, whatever has been removed, sealed or damaged meanwhile."""

from __future__ import annotations

import bisect
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterable

from sparkd.errors import StorageError
from sparkd.outbox import damage
from sparkd.outbox.files import Files, give_up_reserve, is_damage, locked, storage
from sparkd.outbox.losses import note_gap, read_losses
from sparkd.outbox.segment import Row, last_number, open_to_read, rows_after, stored_of
from sparkd.outbox.trim import TRIM_LOCK_LIMIT_S, passed_by_all
from sparkd.service import Stored

AROUND = 1024
"""Numbers looked at in one read of a damaged segment that cannot be mended yet."""
_RECORD_OVERHEAD = 100
_TRIES = 5


class _AgainError(Exception):
    """The segment was removed or mended meanwhile, or the disk gave way: read again."""

    def __init__(self, cause: sqlite3.Error | None = None) -> None:
        self.cause = cause


class _Taking:
    """One read: where it is, what it has, what it may still take."""

    def __init__(self, after: int, max_records: int, max_bytes: int, now_ns: int) -> None:
        self.after, self.found, self.full = after, list[Stored](), False
        self.expired = 0
        self.damaged = 0
        """Damaged rows since the last whole one. What number they claim to have cannot be believed."""
        self._max_records, self._bytes_left, self._now_ns = max_records, max_bytes, now_ns

    @property
    def records_left(self) -> int:
        return self._max_records - len(self.found)

    def row(self, row: Row) -> tuple[int, int] | None:
        """Take *row*, unless it is damaged or there is no room; return the numbers found missing before it."""
        stored = stored_of(row)
        if stored is None:
            self.damaged += 1
            return None
        if row[0] <= self.after:
            return None  # out of order, by a damaged number near it
        missing = (self.after + 1, row[0] - 1) if self.damaged else None
        self.damaged = 0
        if 0 < stored.record.expires_ns < self._now_ns:
            self.expired += 1
            self.after = row[0]
        elif self._add(stored):
            self.after = row[0]
        return missing

    def _add(self, stored: Stored) -> bool:
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
        self._empty = range(0)
        self.expired = 0
        """How many records were passed over because nobody wants them any more."""

    def read(self, after: int, max_records: int, max_bytes: int) -> tuple[list[Stored], int]:
        """Return the records after *after* within the bounds, and the number up to which nothing more is to be read.

        That number is higher than the last record's where what follows has expired or is damaged.
        """
        now_ns = time.time_ns() if self._clock_is_synchronised() else 0
        begin = self._empty.stop if after in self._empty else after  # a long row of expired ones is judged once
        taking = _Taking(begin, max_records, max_bytes, now_ns)
        tries = _TRIES
        while not taking.full and (firsts := self._files.segments()):
            index = max(bisect.bisect_right(firsts, taking.after + 1) - 1, 0)
            last = firsts[index + 1] - 1 if index + 1 < len(firsts) else None
            self._note_missing(taking.after, firsts[0] - 1)
            try:
                more = self._read_segment(taking, firsts[index], last)
            except _AgainError as again:
                tries -= 1
                if not tries:
                    raise self._trouble(again.cause) from again.cause
                continue
            if more:
                continue
            if last is None:
                break
            if not taking.full:
                self._note_missing(max(taking.after, firsts[index] - 1), last)
                taking.after = max(taking.after, last)
        self.expired += taking.expired
        if not taking.found and taking.after > after:
            self._empty = range(after, taking.after)
        return taking.found, taking.after

    def tail(self) -> int:
        """Return the last number of the stream; 0 if nothing was ever appended."""
        with storage(self._files.folder, "read"):
            for _ in range(_TRIES):
                firsts = self._files.segments()
                if not firsts:
                    return 0
                with contextlib.suppress(FileNotFoundError):  # trimmed since it was listed
                    return last_number(self._connection(firsts[-1], sealed=False)) or firsts[-1] - 1
        raise self._trouble(None)

    def close(self) -> None:
        """Close the open segment."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read_segment(self, taking: _Taking, first: int, last: int | None) -> bool:
        """Take from the segment that begins with *first*; *last* is its last number if it is sealed.

        Return whether there may be more in it than was looked at: what is passed over leaves room for it.
        """
        taking.after = max(taking.after, first - 1)
        try:
            db = self._connection(first, sealed=last is not None)
            asked, begin = taking.records_left, taking.after
            with contextlib.closing(rows_after(db, taking.after, asked)) as rows:
                return self._take(taking, rows, last) == asked and taking.after > begin
        except FileNotFoundError:
            raise _AgainError from None
        except sqlite3.DatabaseError as error:
            self.close()
            if not is_damage(error):
                give_up_reserve(self._files)  # without room a WAL that a dead writer left cannot be read
                raise _AgainError(error) from error
            if last is not None:
                self._mend(first, last, error)
            return self._take_around(taking, first)

    def _take(self, taking: _Taking, rows: Iterable[Row], last: int | None) -> int:
        """Take *rows* and return how many there were, or fewer if no more are wanted.

        A damaged one in a sealed segment has it mended; in one that is written it is passed over.
        """
        count = 0
        for count, row in enumerate(rows, 1):
            missing = taking.row(row)
            if taking.damaged and last is not None:
                raise sqlite3.DatabaseError(f"the checksum of record {row[0]} is wrong")
            if missing:
                note_gap(self._files, *missing, "damaged on disk: wrong checksum")
            if taking.full:
                return count
        if taking.damaged:  # only such rows were left: go on behind them, but never behind what may still come
            self._pass(taking, min(taking.after + taking.damaged, self.tail()))
        return count

    def _pass(self, taking: _Taking, reached: int) -> None:
        if reached > taking.after:
            note_gap(self._files, taking.after + 1, reached, "damaged on disk")
            taking.after = reached
        taking.damaged = 0

    def _take_around(self, taking: _Taking, first: int) -> bool:
        """Read what can be read of the segment that is being written. It is mended once it is sealed."""
        with storage(self._files.segment(first), "read"):
            db = self._connection(first, sealed=False)
            last = last_number(db)
            end = min(last, taking.after + AROUND)
            for row in damage.read_around(db, taking.after + 1, end + 1):
                if row[0] > taking.after + 1:
                    taking.damaged += 1
                if missing := taking.row(row):
                    note_gap(self._files, *missing, "damaged on disk")
                if taking.full:
                    return False
            self._pass(taking, end)
            return taking.after < last

    def _mend(self, first: int, last: int, error: sqlite3.Error) -> None:
        """Repair a sealed segment and let the caller read it again."""
        with (
            storage(self._files.segment(first), "mend"),
            locked(self._files.folder / "trim.lock", limit_s=TRIM_LOCK_LIMIT_S),
        ):
            if self._files.segment(first).exists():
                damage.repair(self._files, first, last=last)
        raise _AgainError(error) from error

    def _note_missing(self, after: int, through: int) -> None:
        """Tell that *after* + 1 to *through* are not there, unless the account says so. A new reader misses nothing."""
        if 0 < after < through and not (losses := read_losses(self._files)).accounts_for(after + 1, through):
            begin = max(after, losses.evicted_through, passed_by_all(self._files) or 0)
            if begin < through:
                note_gap(self._files, begin + 1, through, "missing on disk")

    def _trouble(self, cause: sqlite3.Error | None) -> StorageError:
        what = cause or "its segments vanish"
        return StorageError(f"{self._files.folder}: cannot read: {what}; try: make room on this disk, see its health")

    def _connection(self, first: int, *, sealed: bool) -> sqlite3.Connection:
        if self._db is None or self._open != (first, sealed):
            self.close()
            try:
                self._db = open_to_read(self._files.segment(first), sealed=sealed)
            except sqlite3.OperationalError:
                if self._files.segment(first).exists():
                    raise
                raise FileNotFoundError(self._files.segment(first)) from None
            self._open = (first, sealed)
        return self._db
