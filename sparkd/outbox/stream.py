"""A stream as its writer holds it: identity, the segment in use, rotation, repair. Blocking; run it in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeGuard

from sparkd.codec import new_epoch
from sparkd.errors import StorageError
from sparkd.lasting import make_lasting, sync_folder, write_whole
from sparkd.outbox import damage, dead
from sparkd.outbox.clock import clock_is_synchronised
from sparkd.outbox.cursor import encode_slot, read_cursor
from sparkd.outbox.files import (
    LOCK_LIMIT_S,
    Files,
    give_up_reserve,
    has_room,
    is_damage,
    keep_reserve,
    locked,
    read_json,
    storage,
)
from sparkd.outbox.losses import note_gap, read_losses
from sparkd.outbox.pages import is_cut
from sparkd.outbox.segment import EPOCH_MARK, Segment
from sparkd.outbox.trim import Limits, passed_by_all, trim
from sparkd.service import Record, StreamId

LETTERS_AT_ONCE = 500
MAX_KEYS_BYTES = 1 << 20
"""What the idempotency keys of earlier segments may take in a new one."""


class Stream:
    """An open stream; one in all processes, by the lock file."""

    def __init__(self, files: Files, limits: Limits, segment: Segment, epoch: int) -> None:
        """Write to *segment*; use `open_stream`."""
        self.epoch = epoch
        self._files, self._limits, self._segment = files, limits, segment
        self._full = self._broken = False
        self._tick = os.open(files.tick, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def mark(self, name: str) -> bytes | None:
        """Return the last value stored for the mark *name*."""
        return self._segment.marks.get(name)

    def marks(self) -> dict[str, bytes]:
        """Return every mark of the stream's user."""
        return {name: value for name, value in self._segment.marks.items() if name != EPOCH_MARK}

    def append(self, records: Sequence[Record], marks: Mapping[str, bytes]) -> list[int]:
        """Store *records* and *marks*; return the numbers once they are on disk. Raises StorageError."""
        if self._full and not self._recovered():
            raise StorageError(f"{self._files.folder}: the disk is full; try: make room on this disk")
        with storage(self._files.folder, "append"):
            numbers = self._append(records, marks)
        self._tell()
        if self._files.retry.exists():
            with contextlib.suppress(StorageError):  # the next append tries again
                self.append_letters()
        if self._segment.last >= self._segment.first and self._segment.size() >= self._limits.rotate_at:
            with contextlib.suppress(StorageError):  # what was appended is safe; the next append tries again
                self._rotate()
        return numbers

    def append_letters(self) -> None:
        """Append the dead letters that are to be tried again, under new numbers. Raises StorageError."""
        with storage(self._files.retry, "append dead letters again"):
            while letters := dead.wanted_again(self._files, LETTERS_AT_ONCE):
                self._append([letter.record for letter in letters], {})
                self._tell()
                dead.forget(self._files, letters)
            self._files.retry.unlink(missing_ok=True)

    def _append(self, records: Sequence[Record], marks: Mapping[str, bytes]) -> list[int]:
        if self._broken:
            self._mend()
        try:
            return self._segment.append(records, marks)
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self._mend()
                return self._segment.append(records, marks)
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or not has_room(self._files):
                self._give_way()
            raise

    def _mend(self) -> None:
        """The segment in use turned out to be damaged: save it, and go on in a new one."""
        damaged, self._broken = self._segment, True
        with contextlib.suppress(sqlite3.Error):
            damaged.close()
        with locked(self._files.folder / "trim.lock", limit_s=LOCK_LIMIT_S):
            self._segment = begin_beyond(self._files, damaged.first, damaged.last)
        self._broken = False

    def _tell(self) -> None:
        """Wake the readers, and remember outside the segments which numbers are given."""
        with contextlib.suppress(OSError):  # the records are stored; readers look by themselves after a while
            os.pwrite(self._tick, encode_slot(1, self._segment.last), 0)

    def close(self) -> None:
        """Close the segment and the tick file."""
        with contextlib.suppress(sqlite3.Error):
            self._segment.close()
        with contextlib.suppress(OSError):
            os.fsync(self._tick)
        os.close(self._tick)

    def _recovered(self) -> bool:
        if not has_room(self._files):
            with contextlib.suppress(StorageError, OSError):
                self._trim()
            if not has_room(self._files):
                return False
        keep_reserve(self._files)
        self._full = False
        return True

    def _give_way(self) -> None:
        """The disk is full: free the reserve, so that readers can go on and segments be removed."""
        self._full = True
        give_up_reserve(self._files)
        with contextlib.suppress(StorageError, OSError):
            self._trim()

    def _trim(self) -> None:
        trim(self._files, self._limits, clock_synchronised=clock_is_synchronised())

    def _rotate(self) -> None:
        with storage(self._files.folder, "begin a new segment"):
            first = self._segment.last + 1
            keys = self._segment.keys_to_carry(min(self._limits.rotate_at // 8, MAX_KEYS_BYTES))
            fresh = _create(self._files, first, self._segment.marks, keys)
            sealed, self._segment = self._segment, fresh
            with contextlib.suppress(sqlite3.Error):  # a reader is in it: the WAL is folded when the last one closes
                sealed.seal()
            os.fsync(self._tick)
            self._trim()


@contextlib.contextmanager
def open_stream(files: Files, limits: Limits, *, lock_limit_s: float | None = None) -> Iterator[Stream]:
    """Open a stream for writing, making or mending it as needed. Raises StorageError, never for damage."""
    with contextlib.ExitStack() as closing:
        with storage(files.folder, "open the stream"):
            make_lasting(files.folder)
            closing.enter_context(
                locked(files.folder / "lock", limit_s=LOCK_LIMIT_S if lock_limit_s is None else lock_limit_s)
            )
            segment = _last_segment(files)
            closing.callback(segment.close)  # should what follows fail; closing twice does no harm
            epoch = _epoch(files, segment)
            keep_reserve(files)
            stream = Stream(files, limits, segment, epoch)
            closing.callback(stream.close)
            if files.retry.exists():
                with contextlib.suppress(StorageError):  # a full disk, perhaps; the next append tries again
                    stream.append_letters()
        yield stream


def stream_id(files: Files, node_id: str) -> StreamId:
    """Return which stream this is. Raises StorageError if its identity cannot be read."""
    epoch = read_json(files.identity).get("epoch")
    if not valid_epoch(epoch):
        raise StorageError(f"{files.identity}: missing or damaged; try: start the service that writes the stream")
    return StreamId(node_id, files.folder.parent.name, files.folder.name, epoch)


def valid_epoch(value: object) -> TypeGuard[int]:
    """Whether *value* can be an epoch: 64 bits, not zero."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 64


def _last_segment(files: Files) -> Segment:
    """Open the segment to go on with, after mending; it gives no number that was ever given."""
    with locked(files.folder / "trim.lock", limit_s=LOCK_LIMIT_S):
        damage.finish_repairs(files)
        firsts = files.segments()
        for first in firsts[:-1]:
            _fold(files, first, firsts[firsts.index(first) + 1] - 1)
        given = _highest_given(files)
        if firsts:
            return _open_whole(files, firsts[-1], given) or begin_beyond(files, firsts[-1], given)
        first = given + damage.MAX_PER_SEGMENT if given else 1
        if given:
            note_gap(files, (passed_by_all(files) or 0) + 1, first - 1, "at the most: the segments have gone")
        return _create(files, first, {}, ())


def _fold(files: Files, first: int, last: int) -> None:
    """Fold the WAL that a killed writer left behind a sealed segment, so that reading it needs no room on the disk."""
    path = files.segment(first)
    wal = path.with_name(f"{path.name}-wal")
    if not wal.exists() or not wal.stat().st_size:
        return
    with contextlib.suppress(sqlite3.Error):  # readers do it again, with what there is
        if is_cut(wal):
            damage.repair(files, first, last=last)
        else:
            Segment.open(path).seal()


def _highest_given(files: Files) -> int:
    """Return the highest number known to be given, by whatever remembers it besides the segments."""
    cursors = files.cursors.iterdir() if files.cursors.is_dir() else ()
    return max(read_losses(files).evicted_through, *map(read_cursor, (files.tick, *cursors)))


def _open_whole(files: Files, first: int, given: int) -> Segment | None:
    """Open the segment, unless it is damaged or has lost numbers up to *given*."""
    path = files.segment(first)
    for patient in (True, False):
        try:
            if is_cut(path.with_name(f"{path.name}-wal")) or not damage.is_whole(path):
                return None
            segment = Segment.open(path)
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                return None
            if not patient:
                raise
            give_up_reserve(files)  # a full disk is no damage
        else:
            if segment.last >= max(given, first - 1):
                # What a killed writer has left of a transaction would look like damage behind a shorter one.
                with contextlib.suppress(sqlite3.Error):
                    segment.fold()
                return segment
            segment.close()
            return None
    return None


def begin_beyond(files: Files, first: int, given: int) -> Segment:
    """Save what can be read of the damaged segment, and go on with numbers that it cannot have used."""
    beyond = max(damage.upper_bound(files, first), given + 1)
    damage.repair(files, first, last=beyond - 1, known=False)
    with contextlib.closing(Segment.open(files.segment(first))) as saved:
        return _create(files, beyond, saved.marks, saved.keys_to_carry(MAX_KEYS_BYTES))


def _create(files: Files, first: int, marks: Mapping[str, bytes], keys: Iterable[tuple[str, int]]) -> Segment:
    segment = Segment.create(files.segment(first), first=first, marks=marks, keys=keys)
    sync_folder(files.folder)
    return segment


def _epoch(files: Files, segment: Segment) -> int:
    """Return the stream's epoch. The segments carry it; the file tells the readers, and may be lost or damaged."""
    held = read_json(files.identity).get("epoch")
    marked = int.from_bytes(segment.marks.get(EPOCH_MARK, b""))
    epoch = marked or (held if valid_epoch(held) else new_epoch())
    if held != epoch:
        write_whole(files.identity, json.dumps({"epoch": epoch, "created": time.time()}))
    if not marked:
        segment.append((), {EPOCH_MARK: epoch.to_bytes(8)})
    return epoch
