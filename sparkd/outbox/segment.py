"""One segment: a SQLite file with some thousand records, each under its own checksum.

WAL with synchronous=FULL: a commit that has returned is on disk. AUTOINCREMENT, so numbers are never used again.
`marks` holds small values stored together with records; `carried` the idempotency keys of earlier segments.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from sparkd.privacy import Privacy
from sparkd.service import Record, Stored
from sparkd.steps import reached

AUTOCHECKPOINT_PAGES = 100
"""Keeps the WAL below half a megabyte, so that a full disk can still be trimmed."""
BUSY_MS = 5000
_KEY_OVERHEAD = 12
CARRIED_KEYS = 10_000
"""How many idempotency keys are remembered across segments, besides those of the segments that are kept."""
EPOCH_MARK = "sparkd.epoch"
SIDES = ("-wal", "-shm")
"""What SQLite keeps beside a file that is in use."""

_SCHEMA = """
CREATE TABLE records (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body BLOB NOT NULL, privacy INTEGER NOT NULL,
    wall_ns INTEGER NOT NULL, mono_ns INTEGER NOT NULL, trace BLOB, priority INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL, key TEXT, crc INTEGER NOT NULL);
CREATE UNIQUE INDEX records_key ON records (key) WHERE key IS NOT NULL;
CREATE TABLE marks (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE carried (key TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = "seq, topic, body, privacy, wall_ns, mono_ns, trace, priority, expires_ns, key, crc"
_INSERT = f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own names
_ROWS_AT_ONCE = 50
_INSERT_MANY = _INSERT + ", (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" * (_ROWS_AT_ONCE - 1)
_SELECT = f"SELECT {_COLUMNS} FROM records WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 - likewise
_pack = msgspec.msgpack.Encoder().encode

Row = tuple[int, str, bytes, int, int, int, bytes | None, int, int, str | None, int]


def row_of(seq: int, record: Record, wall_ns: int, mono_ns: int) -> Row:
    """Return *record* as a row, with the checksum over all of it. The times are for a record that has none."""
    content = (
        seq,
        record.topic,
        record.body,
        int(record.privacy),
        record.wall_ns or wall_ns,
        record.mono_ns or mono_ns,
        record.trace,
        record.priority,
        record.expires_ns,
        record.key,
    )
    return (*content, zlib.crc32(_pack(content)))


def stored_of(row: Row) -> Stored | None:
    """Return the record in *row*, or None if its checksum is wrong. Any values may stand in a damaged row."""
    if zlib.crc32(_pack(row[:-1])) != row[-1]:
        return None
    seq, topic, body, privacy, wall_ns, mono_ns, trace, priority, expires_ns, key, _ = row
    record = Record(
        topic=topic,
        body=body,
        privacy=Privacy(privacy),
        wall_ns=wall_ns,
        mono_ns=mono_ns,
        trace=trace,
        priority=priority,
        expires_ns=expires_ns,
        key=key,
    )
    return Stored(seq, record)


class Segment:
    """The segment that is being written."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        """Write to *db*; use `create` or `open`."""
        self.path, self.first = path, int(path.stem)
        self._db = db
        self.last = last_number(db)
        self.marks: dict[str, bytes] = dict(db.execute("SELECT name, value FROM marks"))

    @classmethod
    def create(cls, path: Path, *, first: int, marks: Mapping[str, bytes], keys: Iterable[tuple[str, int]]) -> Segment:
        """Make the segment whose first record will have the number *first*. Raises sqlite3.Error."""
        part = path.with_suffix(".new")
        _remove(part)
        try:
            with closing(_connect(part)) as db:
                db.executescript(f"BEGIN; {_SCHEMA}")
                db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)", (first - 1,))
                db.executemany("INSERT INTO marks VALUES (?, ?)", marks.items())
                db.executemany("INSERT OR REPLACE INTO carried VALUES (?, ?)", keys)
                db.execute("COMMIT")
            part.rename(path)  # closed, so the WAL is folded into the file
        except BaseException:
            _remove(part)  # on a full disk it would take the room that is missing
            raise
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """Open a segment for writing. Raises sqlite3.Error if it is damaged."""
        db = _connect(path)
        try:
            return cls(path, db)
        except BaseException:
            db.close()
            raise

    def check(self) -> bool:
        """Whether SQLite finds the file whole."""
        return bool(self._db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")

    def append(self, records: Sequence[Record], marks: Mapping[str, bytes]) -> list[int]:
        """Store *records* and *marks* in one transaction; return the numbers once they are on disk."""
        numbers, rows, last = [], [], self.last
        fresh: dict[str, int] = {}
        wall_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        for record in records:
            seq = None if record.key is None else fresh.get(record.key) or self.seq_of(record.key)
            if seq is None:
                seq = last = last + 1
                rows.append(row_of(seq, record, wall_ns, mono_ns))
                if record.key is not None:
                    fresh[record.key] = seq
            numbers.append(seq)
        self._commit(rows, marks)
        self.last = last
        self.marks.update(marks)
        return numbers

    def _commit(self, rows: list[Row], marks: Mapping[str, bytes]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            self._insert(rows)
            if marks:
                db.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", marks.items())
            reached("outbox.before-fsync")
            db.execute("COMMIT")
            reached("outbox.after-fsync")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _insert(self, rows: list[Row]) -> None:
        """Insert many rows by one statement: by one each, SQLite would write the last number as often."""
        whole = len(rows) // _ROWS_AT_ONCE * _ROWS_AT_ONCE
        for begin in range(0, whole, _ROWS_AT_ONCE):
            values = [*itertools.chain.from_iterable(rows[begin : begin + _ROWS_AT_ONCE])]
            self._db.execute(_INSERT_MANY, values)
        self._db.executemany(_INSERT, rows[whole:])

    def insert(self, rows: Iterable[Row]) -> None:
        """Store rows as they are, checksums and all: the saved ones of a damaged segment."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_INSERT, rows)
        self._db.execute("COMMIT")

    def seq_of(self, key: str) -> int | None:
        """Return the number under which *key* was stored, as far as is remembered."""
        for query in ("SELECT seq FROM records WHERE key = ?", "SELECT seq FROM carried WHERE key = ?"):
            found = self._db.execute(query, (key,)).fetchone()
            if found:
                return int(found[0])
        return None

    def keys_to_carry(self, max_bytes: int) -> list[tuple[str, int]]:
        """Return the newest idempotency keys, for the next segment: they must leave room in it for records."""
        own = "SELECT key, seq FROM records WHERE key IS NOT NULL"
        query = f"SELECT key, seq FROM ({own} UNION SELECT key, seq FROM carried) ORDER BY seq DESC LIMIT ?"  # noqa: S608
        kept, size = [], 0
        for key, seq in self._db.execute(query, (CARRIED_KEYS,)):
            size += len(key) + _KEY_OVERHEAD
            if size > max_bytes:
                break
            kept.append((key, seq))
        return kept

    def frames(self) -> int:
        """Return how many frames of the WAL SQLite believes in."""
        return int(self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])

    def size(self) -> int:
        """Return the size of the file without its WAL, in bytes."""
        pages, size = self._db.execute(
            "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()
        return int(pages) * int(size)

    def fold(self) -> None:
        """Fold the WAL into the file and begin it anew. Raises sqlite3.Error if a reader or the disk is in the way."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def seal(self) -> None:
        """Fold the WAL into the file and close: nothing is written here any more."""
        try:
            self.fold()
        finally:
            self._db.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        db.execute("PRAGMA cache_size = -512")
    except BaseException:
        db.close()
        raise
    return db


def open_to_read(path: Path, *, sealed: bool) -> sqlite3.Connection:
    """Open a segment for reading. A sealed one whose WAL is folded needs no side files, so a full disk does not matter.

    Raises FileNotFoundError if it has been removed, sqlite3.Error if it is damaged.
    """
    wal = path.with_name(path.name + "-wal")
    folded = sealed and (not wal.exists() or wal.stat().st_size == 0)
    if not path.exists():
        raise FileNotFoundError(path)
    query = "immutable=1" if folded else "mode=ro"
    address = f"{path.absolute().as_uri()}?{query}"
    db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
    db.text_factory = _text
    try:
        db.execute("PRAGMA cache_size = -256")
    except BaseException:
        db.close()
        raise
    return db


def _text(value: bytes) -> str:
    """A flipped byte in a text shall cost its record, by the checksum, and not the whole read."""
    return value.decode("utf-8", "replace")


def _remove(path: Path) -> None:
    for suffix in ("", *SIDES):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def last_number(db: sqlite3.Connection) -> int:
    """Return the last number that the segment has given; one less than its first if none, 0 if it does not say."""
    held = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'records'").fetchone()
    return held[0] if held and isinstance(held[0], int) else 0


def rows_after(db: sqlite3.Connection, after: int, limit: int) -> Generator[Row, None, None]:
    """Yield the rows after number *after*; close the iterator to end the read."""
    with closing(db.execute(_SELECT, (after, limit))) as cursor:
        yield from cursor
