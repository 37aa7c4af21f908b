"""A stream as its writer holds it: identity, the segment in use, rotation, repair. Blocking; run it in a thread."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from sparkd.codec import new_epoch
from sparkd.errors import StorageError
from sparkd.outbox import damage
from sparkd.outbox.clock import clock_is_synchronised
from sparkd.outbox.files import (
    LOCK_LIMIT_S,
    Files,
    give_up_reserve,
    has_room,
    keep_reserve,
    locked,
    read_json,
    storage,
    sync_folder,
    write_whole,
)
from sparkd.outbox.segment import EPOCH_MARK, Segment
from sparkd.outbox.trim import Limits, trim
from sparkd.service import Record, StreamId


class Stream:
    """An open stream; one in all processes, by the lock file."""

    def __init__(self, files: Files, limits: Limits, segment: Segment, epoch: int) -> None:
        """Write to *segment*; use `open_stream`."""
        self.epoch = epoch
        self._files, self._limits, self._segment = files, limits, segment
        self._full = False
        self._tick = os.open(files.tick, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def mark(self, name: str) -> bytes | None:
        """Return the last value stored for the mark *name*."""
        return self._segment.marks.get(name)

    def append(self, records: Sequence[Record], marks: Mapping[str, bytes]) -> list[int]:
        """Store *records* and *marks*; return the numbers once they are on disk. Raises StorageError."""
        if self._full and not self._recovered():
            raise StorageError(f"{self._files.folder}: the disk is full; try: make room on this disk")
        with storage(self._files.folder, "append"):
            try:
                numbers = self._segment.append([_stamped(record) for record in records], marks)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    self._give_way()
                raise
        os.pwrite(self._tick, b"\x01", 0)
        if self._segment.size() >= self._limits.rotate_at:
            with contextlib.suppress(StorageError):  # what was appended is safe; the next append tries again
                self._rotate()
        return numbers

    def close(self) -> None:
        """Close the segment and the tick file."""
        with contextlib.suppress(sqlite3.Error):
            self._segment.close()
        os.close(self._tick)

    def _recovered(self) -> bool:
        if not has_room(self._files):
            with contextlib.suppress(StorageError, OSError):
                trim(self._files, self._limits)
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
            trim(self._files, self._limits)

    def _rotate(self) -> None:
        with storage(self._files.folder, "begin a new segment"):
            first = self._segment.last + 1
            marks, keys = self._segment.marks, self._segment.keys_to_carry()
            fresh = Segment.create(self._files.segment(first), first=first, marks=marks, keys=keys)
            sync_folder(self._files.folder)
            sealed, self._segment = self._segment, fresh
            with contextlib.suppress(sqlite3.Error):  # a reader is in it: the WAL is folded when the last one closes
                sealed.seal()
            trim(self._files, self._limits, clock_synchronised=clock_is_synchronised())


@contextlib.contextmanager
def open_stream(files: Files, limits: Limits) -> Iterator[Stream]:
    """Open a stream for writing, making or mending it as needed. Raises StorageError, never for damage."""
    with storage(files.folder, "open the stream"):
        _make_folders(files.folder)
        with locked(files.folder / "lock", limit_s=LOCK_LIMIT_S):
            segment = _last_segment(files)
            epoch = _epoch(files, segment)
            keep_reserve(files)
            stream = Stream(files, limits, segment, epoch)
            try:
                yield stream
            finally:
                stream.close()


def stream_id(files: Files, node_id: str) -> StreamId:
    """Return which stream this is. Raises StorageError if its identity cannot be read."""
    epoch = read_json(files.identity).get("epoch")
    if not isinstance(epoch, int):
        raise StorageError(f"{files.identity}: missing or damaged; try: start the service that writes the stream")
    return StreamId(node_id, files.folder.parent.name, files.folder.name, epoch)


def _make_folders(folder: Path) -> None:
    missing = [path for path in (folder, folder.parent) if not path.exists()]
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def _last_segment(files: Files) -> Segment:
    for left_over in (*files.folder.glob("*.new*"), *files.folder.glob("*.saved*"), *files.folder.glob("*.part")):
        left_over.unlink()  # of a process that died while making it
    firsts = files.segments()
    if not firsts:
        segment = Segment.create(files.segment(1), first=1, marks={}, keys=())
        sync_folder(files.folder)
        return segment
    first = firsts[-1]
    opened = _open_whole(files, first)
    return opened if opened is not None else _begin_beyond(files, first)


def _open_whole(files: Files, first: int) -> Segment | None:
    path = files.segment(first)
    wal = path.with_name(path.name + "-wal")
    unclean = wal.exists() and wal.stat().st_size > 0
    try:
        segment = Segment.open(path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
            give_up_reserve(files)  # a full disk is no damage
            return Segment.open(path)
        return None
    except sqlite3.DatabaseError:
        return None
    with contextlib.suppress(sqlite3.DatabaseError):
        if (not unclean or segment.check()) and segment.last >= first - 1:
            return segment
    segment.close()
    return None


def _begin_beyond(files: Files, first: int) -> Segment:
    """Save what can be read of the damaged segment, and go on with numbers that it cannot have used."""
    with locked(files.folder / "trim.lock", limit_s=LOCK_LIMIT_S):
        damage.repair(files, first, last=None)
    beyond = first + damage.MAX_PER_SEGMENT
    with contextlib.closing(sqlite3.connect(files.segment(first))) as saved:
        marks = dict(saved.execute("SELECT name, value FROM marks"))
        keys = list(saved.execute("SELECT key, seq FROM records WHERE key IS NOT NULL"))
    segment = Segment.create(files.segment(beyond), first=beyond, marks=marks, keys=keys)
    sync_folder(files.folder)
    return segment


def _epoch(files: Files, segment: Segment) -> int:
    """Return the stream's epoch; each segment carries it too, should the file be lost."""
    held = read_json(files.identity).get("epoch")
    marked = segment.marks.get(EPOCH_MARK)
    if isinstance(held, int):
        epoch = held
    else:
        epoch = int.from_bytes(marked) if marked else new_epoch()
        write_whole(files.identity, json.dumps({"epoch": epoch, "created": time.time()}))
    if marked is None:
        segment.append((), {EPOCH_MARK: epoch.to_bytes(8)})
    return epoch


def _stamped(record: Record) -> Record:
    if record.wall_ns and record.mono_ns:
        return record
    wall_ns, mono_ns = record.wall_ns or time.time_ns(), record.mono_ns or time.monotonic_ns()
    return msgspec.structs.replace(record, wall_ns=wall_ns, mono_ns=mono_ns)
