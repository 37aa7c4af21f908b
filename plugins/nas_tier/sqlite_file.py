"""The SQLite file of the embedded records: connections, tables, and its errors in our words.

One connection writes and others read, each for one thread at a time: readers see the last commit and block nobody.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from sparkd import CallError, CallErrorKind

from .record_store import LAYOUT

T = TypeVar("T")
BUSY_S = 5.0
"""Another process may be writing: a restart that overlaps."""
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, namespace TEXT NOT NULL, key TEXT NOT NULL,"
        " version TEXT NOT NULL, deleted INTEGER NOT NULL, hard_ms INTEGER NOT NULL, blob TEXT NOT NULL,"
        " content_type TEXT NOT NULL, tags TEXT NOT NULL, body BLOB NOT NULL, value BLOB, change INTEGER NOT NULL,"
        " UNIQUE (namespace, key))"
    ),
    "CREATE UNIQUE INDEX IF NOT EXISTS records_changes ON records (change)",
    "CREATE INDEX IF NOT EXISTS records_blobs ON records (blob) WHERE blob <> ''",
    "CREATE INDEX IF NOT EXISTS records_expiry ON records (hard_ms) WHERE hard_ms > 0",
    "CREATE INDEX IF NOT EXISTS records_tombstones ON records (version) WHERE deleted",
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (text)",
    (
        "CREATE TABLE IF NOT EXISTS history (namespace TEXT NOT NULL, key TEXT NOT NULL, version TEXT NOT NULL,"
        " hard_ms INTEGER NOT NULL, blob TEXT NOT NULL, body BLOB NOT NULL, value BLOB,"
        " PRIMARY KEY (namespace, key, version))"
    ),
    "CREATE INDEX IF NOT EXISTS history_blobs ON history (blob) WHERE blob <> ''",
    (
        "CREATE TABLE IF NOT EXISTS vectors (record INTEGER NOT NULL, namespace TEXT NOT NULL, model TEXT NOT NULL,"
        " dims INTEGER NOT NULL, begins INTEGER NOT NULL, ends INTEGER NOT NULL, numbers BLOB NOT NULL)"
    ),
    "CREATE INDEX IF NOT EXISTS vectors_records ON vectors (record)",
    "CREATE INDEX IF NOT EXISTS vectors_models ON vectors (namespace, model, dims)",
    (
        "CREATE TABLE IF NOT EXISTS marks (digest TEXT PRIMARY KEY, state TEXT NOT NULL, marked_ms INTEGER NOT NULL,"
        " since REAL NOT NULL)"
    ),
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
"""`words` has the record's id as rowid."""


class _Way:
    """A connection, and who may use it."""

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        self.limiter = CapacityLimiter(1)


class SqliteFile:
    """Opens the file at the first use; after an error that closes it, again at the next."""

    def __init__(self, path: Path) -> None:
        """Use the file at *path*, which is made if it is not there."""
        self.path = path
        self._ways = {"write": _Way(), "read": _Way(), "search": _Way()}

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do *work* in a transaction, on the disk when this returns. Fails with UNAVAILABLE if the disk refuses."""
        return await self._on("write", partial(_in_transaction, work=work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do *work*, which is short and only reads."""
        return await self._on("read", work)

    async def search(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do *work*, which only reads and may take long: the short ones do not wait for it."""
        return await self._on("search", work)

    async def aclose(self) -> None:
        """Close the connections."""
        with anyio.CancelScope(shield=True):
            for way in self._ways.values():
                if way.connection is not None:
                    await to_thread.run_sync(way.connection.close, limiter=way.limiter)
                    way.connection = None

    async def _on(self, name: str, work: Callable[[sqlite3.Connection], T]) -> T:
        way = self._ways[name]
        return await to_thread.run_sync(partial(self._at, way, work), limiter=way.limiter)

    def _at(self, way: _Way, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._said():
            if way.connection is None:
                way.connection = _open(self.path)
            return work(way.connection)

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGE
            message = f"the records in {self.path}: {error}"
            remedy = "look at the disk: its space, and whether it can be written to"
            if damaged:
                remedy = "the file is damaged: move it away, with -wal and -shm; other tiers fill a new one"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy=remedy) from error
        except OSError as error:
            message = f"the records in {self.path}: {error.strerror}"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="look at the disk and the folder") from error


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        _in_transaction(connection, work=_lay_out)
    except BaseException:
        connection.close()
        raise
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in SCHEMA:
        connection.execute(statement)
    insert = "INSERT OR IGNORE INTO meta VALUES (?, ?)"
    connection.execute(insert, ("ident", secrets.token_hex(16)))
    connection.execute(insert, ("change", "0"))
    connection.execute(insert, ("layout", str(LAYOUT)))
    layout = int(connection.execute("SELECT value FROM meta WHERE name = 'layout'").fetchone()[0])
    if layout > LAYOUT:
        message = f"the file of records has layout {layout}, and this version knows {LAYOUT}"
        raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="bring this node to the newer version")


def _in_transaction(connection: sqlite3.Connection, *, work: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result
