"""Dead letters: records that a reader could not get rid of, kept aside with the reason until somebody looks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import msgspec

from sparkd.core_interfaces import DeadLetter
from sparkd.outbox.files import Files, is_damage, storage
from sparkd.service import Record, Stored

_SCHEMA = """CREATE TABLE IF NOT EXISTS letters (
    reader TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, topic TEXT NOT NULL,
    bytes INTEGER NOT NULL, record BLOB NOT NULL, again INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (reader, seq))"""
_BURY = "INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
_OVER = "DELETE FROM letters WHERE rowid NOT IN (SELECT rowid FROM letters ORDER BY at DESC, seq DESC LIMIT ?)"
_WANTED = "SELECT reader, seq, record FROM letters WHERE again ORDER BY seq LIMIT ?"
MAX_REASON_CHARS = 500
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter to append again: under a key of its own, for the one it had stands for the record it was."""

    reader: str
    seq: int
    record: Record


def bury(files: Files, reader: str, stored: Stored, reason: str, *, keep: int) -> None:
    """Put a record among the dead letters; the oldest beyond *keep* are dropped. Raises StorageError.

    A damaged file of them goes to the quarantine: it must not hold the stream up.
    """
    with storage(files.dead, "keep a dead letter"):
        try:
            _bury(files, reader, stored, reason, keep)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            files.quarantine.mkdir(mode=0o750, exist_ok=True)
            files.dead.rename(files.quarantine / f"dead.{time.time_ns()}")
            _bury(files, reader, stored, reason, keep)


def _bury(files: Files, reader: str, stored: Stored, reason: str, keep: int) -> None:
    record = stored.record
    size, content = len(record.body), _encode(record)
    with _open(files) as db, db:
        db.execute(_BURY, (reader, stored.seq, time.time(), reason[:MAX_REASON_CHARS], record.topic, size, content))
        if _count(db) > keep:
            db.execute(_OVER, (keep,))


def dead_letters(files: Files) -> list[DeadLetter]:
    """Return the dead letters, oldest first. Raises StorageError."""
    query = "SELECT seq, reader, reason, at, topic, bytes FROM letters ORDER BY at, seq"
    if not files.dead.exists():
        return []
    with storage(files.dead, "read the dead letters"), _open(files) as db:
        return [
            DeadLetter(seq=seq, reader=reader, reason=reason, at=at, topic=topic, bytes=size)
            for seq, reader, reason, at, topic, size in db.execute(query)
        ]


def count_dead(files: Files) -> int:
    """Return how many dead letters there are. Raises StorageError."""
    if not files.dead.exists():
        return 0
    with storage(files.dead, "count the dead letters"), _open(files) as db:
        return _count(db)


def drop_dead(files: Files, seqs: Sequence[int]) -> int:
    """Delete the dead letters with these numbers; return how many there were. Raises StorageError."""
    return _each(files, "drop dead letters", "DELETE FROM letters WHERE seq = ?", [(seq,) for seq in seqs])


def ask_again(files: Files, seqs: Sequence[int]) -> int:
    """Ask the writer to append the dead letters with these numbers again; return how many. Raises StorageError."""
    count = _each(files, "retry", "UPDATE letters SET again = 1 WHERE seq = ?", [(seq,) for seq in seqs])
    if count:
        with storage(files.retry, "retry dead letters"):
            files.retry.touch()
    return count


def wanted_again(files: Files, limit: int) -> list[Letter]:
    """Return the letters that are to be appended again, at most *limit*. Raises StorageError."""
    if not files.dead.exists():
        return []
    with storage(files.dead, "read the dead letters"), _open(files) as db:
        return [_letter(*row) for row in db.execute(_WANTED, (limit,))]


def forget(files: Files, letters: Sequence[Letter]) -> None:
    """Delete *letters*: they are in the stream again. Raises StorageError."""
    pairs = [(letter.reader, letter.seq) for letter in letters]
    _each(files, "drop dead letters", "DELETE FROM letters WHERE reader = ? AND seq = ?", pairs)


def _letter(reader: str, seq: int, content: bytes) -> Letter:
    return Letter(reader, seq, msgspec.structs.replace(_decode(content), key=f"sparkd.retry {reader} {seq}"))


def _each(files: Files, deed: str, statement: str, values: Sequence[tuple[object, ...]]) -> int:
    if not files.dead.exists():
        return 0
    with storage(files.dead, deed), _open(files) as db, db, closing(db.cursor()) as cursor:
        return max(cursor.executemany(statement, values).rowcount, 0)


def _count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM letters").fetchone()[0])


@contextmanager
def _open(files: Files) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(files.dead, timeout=5)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute(_SCHEMA)
        yield db
