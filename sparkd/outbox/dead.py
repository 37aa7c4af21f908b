"""Dead letters: records that a reader could not get rid of, kept aside with the reason until somebody looks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sparkd.core_interfaces import DeadLetter
from sparkd.outbox.files import Files, is_damage, storage
from sparkd.service import Stored

_SCHEMA = """CREATE TABLE IF NOT EXISTS dead (
    reader TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, topic TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (reader, seq))"""
MAX_REASON_CHARS = 500


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
    values = (reader, stored.seq, time.time(), reason[:MAX_REASON_CHARS], stored.record.topic, stored.record.body)
    with _open(files) as db, db:
        db.execute("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?)", values)
        over = "DELETE FROM dead WHERE (reader, seq) NOT IN (SELECT reader, seq FROM dead ORDER BY at DESC LIMIT ?)"
        if db.execute("SELECT count(*) FROM dead").fetchone()[0] > keep:
            db.execute(over, (keep,))


def dead_letters(files: Files) -> list[DeadLetter]:
    """Return the dead letters, oldest first."""
    if not files.dead.exists():
        return []
    query = "SELECT seq, reader, reason, at, topic, length(body) FROM dead ORDER BY at"
    with storage(files.dead, "read the dead letters"), _open(files) as db:
        return [
            DeadLetter(seq=seq, reader=reader, reason=reason, at=at, topic=topic, bytes=size)
            for seq, reader, reason, at, topic, size in db.execute(query)
        ]


def count_dead(files: Files) -> int:
    """Return how many dead letters there are."""
    if not files.dead.exists():
        return 0
    with storage(files.dead, "count the dead letters"), _open(files) as db:
        return int(db.execute("SELECT count(*) FROM dead").fetchone()[0])


def drop_dead(files: Files, seqs: Sequence[int]) -> int:
    """Delete the dead letters with these numbers; return how many there were."""
    if not files.dead.exists():
        return 0
    with storage(files.dead, "drop dead letters"), _open(files) as db, db:
        marks = ",".join("?" * len(seqs))
        return db.execute(f"DELETE FROM dead WHERE seq IN ({marks})", list(seqs)).rowcount  # noqa: S608 - only marks


@contextmanager
def _open(files: Files) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(files.dead, timeout=5)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute(_SCHEMA)
        yield db
    finally:
        db.close()
