"""The database: rows and the position they came from, in one transaction. Every call here blocks; use a thread.

Beside the tables of `policy`: `positions` holds how far the stream `ingest` has been written, `origins` how far each
stream of each node, `doubled` every row that came twice, which is never, unless something before us is wrong.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

from sparkd import StorageError, StreamId, reached

from .policy import ALL_TABLES, Row

_STREAM = "node_id TEXT, service TEXT, stream TEXT, epoch TEXT"
_STREAM_KEY = "PRIMARY KEY (node_id, service, stream, epoch)"
SCHEMA = (
    *(table.schema for table in ALL_TABLES),
    f"CREATE TABLE IF NOT EXISTS positions ({_STREAM}, seq INTEGER NOT NULL, {_STREAM_KEY})",
    f"CREATE TABLE IF NOT EXISTS origins ({_STREAM}, node TEXT, seq INTEGER, stored_ns INTEGER, {_STREAM_KEY})",
    f"CREATE TABLE IF NOT EXISTS doubled ({_STREAM}, seq INTEGER NOT NULL, stored_ns INTEGER NOT NULL)",
)
COUNTED = (*(table.name for table in ALL_TABLES), "doubled")
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_SET_POSITION = (
    "INSERT INTO positions VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET seq = excluded.seq WHERE excluded.seq > positions.seq"
)
_SET_ORIGIN = (
    "INSERT INTO origins VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET node = excluded.node, stored_ns = excluded.stored_ns, seq = max(origins.seq, excluded.seq)"
)


class DamagedError(StorageError):
    """The database file is not one any more, or not a whole one."""


class Database:
    """The one writing connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Write through *connection*."""
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or make the database. Raises DamagedError if the file is no database, StorageError for the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            for statement in SCHEMA:
                connection.execute(statement)
            for name in (*COUNTED, "positions", "origins"):
                connection.execute(f"SELECT * FROM {name} LIMIT 1").fetchone()  # noqa: S608 - names from this file
        except sqlite3.Error as error:
            connection.close()
            raise _storage_error(error) from error
        return cls(connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def position(self, stream: StreamId) -> int:
        """Return the last number of *stream* that was written; 0 if none was."""
        key = (stream.node_id, stream.service, stream.stream, f"{stream.epoch:016x}")
        query = "SELECT seq FROM positions WHERE node_id=? AND service=? AND stream=? AND epoch=?"
        try:
            row = self._connection.execute(query, key).fetchone()
        except sqlite3.Error as error:
            raise _storage_error(error) from error
        return row[0] if row else 0

    def write(self, rows: Sequence[Row], *, stream: StreamId, through: int) -> int:
        """Write *rows*, and that *stream* is written *through* this number; return how many rows were there already.

        Raises StorageError if the disk refuses, DamagedError if the database is damaged; then nothing is written.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                doubled = self._write(rows, stream, through)
                reached("sink.before-commit")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _storage_error(error) from error
        reached("sink.after-commit")
        return doubled

    def _write(self, rows: Sequence[Row], stream: StreamId, through: int) -> int:
        execute, stored_ns, doubled = self._connection.execute, time.time_ns(), 0
        origins = dict[tuple[object, ...], tuple[object, ...]]()
        for row in rows:
            new = execute(row.table.insert, (*row.envelope, *row.columns, row.payload, stored_ns)).rowcount
            if not new:
                doubled += 1
                execute("INSERT INTO doubled VALUES (?, ?, ?, ?, ?, ?)", (*row.envelope[:5], stored_ns))
            seq, node = row.envelope[4:6]
            origins[row.envelope[:4]] = (node, seq, stored_ns)
        self._connection.executemany(_SET_ORIGIN, [(*key, *value) for key, value in origins.items()])
        execute(_SET_POSITION, (stream.node_id, stream.service, stream.stream, f"{stream.epoch:016x}", through))
        return doubled


def set_aside(path: Path) -> Path:
    """Move a damaged database out of the way, its log with it; return its new name."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def count_rows(path: Path) -> dict[str, int]:
    """Return the number of rows of each table, through a connection of its own, so that writing goes on."""
    with closing(_open_to_read(path)) as connection:
        query = "SELECT count(*) FROM {}"
        return {name: connection.execute(query.format(name)).fetchone()[0] for name in COUNTED}


def origin_positions(path: Path) -> dict[str, int]:
    """Return the last number stored of each `node/service/stream`; of its newest life, if it had several."""
    with closing(_open_to_read(path)) as connection:
        rows = connection.execute("SELECT node, service, stream, seq FROM origins ORDER BY stored_ns")
        return {f"{node}/{service}/{stream}": seq for node, service, stream, seq in rows}


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _storage_error(error: sqlite3.Error) -> StorageError:
    """Return *error* by whose fault it is. SQLite's extended codes keep the kind in the lowest byte."""
    damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE
    return (DamagedError if damaged else StorageError)(f"database: {error}")
