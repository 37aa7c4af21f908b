"""Cleaning the records in SQLite: each step is a transaction of the one writer."""

from __future__ import annotations

import sqlite3
import time
from functools import partial

from .record_store import GONE_MS, LEASE_S, MARK_MS, blob_going, tombstone_bytes
from .sqlite_file import SqliteFile

AT_ONCE = 500
"""Rows a transaction: writers wait for it."""
_UNNAMED = (
    "NOT EXISTS (SELECT 1 FROM records WHERE blob <> '' AND blob = digest)"
    " AND NOT EXISTS (SELECT 1 FROM history WHERE blob <> '' AND blob = digest)"
)
_TRIM = (
    "DELETE FROM history WHERE version < :before OR (hard_ms > 0 AND hard_ms <= :now_ms) OR rowid IN"
    " (SELECT id FROM (SELECT rowid AS id, row_number() OVER (PARTITION BY namespace, key ORDER BY version DESC) AS n"
    " FROM history) WHERE n > :most)"
)
_BURIED = "SELECT id, version FROM records WHERE deleted AND version < ? ORDER BY version LIMIT ?"
_RAISE = "INSERT INTO meta VALUES ('floor', ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"


class SqliteUpkeep:
    """Cleans."""

    def __init__(self, file: SqliteFile) -> None:
        """Clean *file*."""
        self._file = file

    async def expire(self, now_ms: int) -> int:
        """Make tombstones of some that have expired."""
        return await self._file.write(partial(_expire, now_ms))

    async def trim(self, *, now_ms: int, before: str, most: int) -> int:
        """Remove history."""
        params = {"now_ms": now_ms, "before": before, "most": most}
        return await self._file.write(lambda db: db.execute(_TRIM, params).rowcount)

    async def bury(self, before: str) -> int:
        """Remove some tombstones and raise the floor."""
        return await self._file.write(partial(_bury, before))

    async def mark(self, digests: list[str], *, now_ms: int) -> int:
        """Mark what nothing names."""
        statement = (
            "INSERT OR IGNORE INTO marks SELECT digest, 'marked', :now_ms, 0"
            f" FROM (SELECT :digest AS digest) WHERE {_UNNAMED}"
        )
        rows = [{"digest": digest, "now_ms": now_ms} for digest in digests]
        return await self._file.write(lambda db: db.executemany(statement, rows).rowcount)

    async def doom(self, *, now_ms: int, most: int) -> list[str]:
        """Take out of the marks what is to go now."""
        return await self._file.write(partial(_doom, now_ms, most))

    async def gone(self, digest: str, *, now_ms: int) -> None:
        """Note that the object is deleted."""
        statement = "UPDATE marks SET state = 'gone', marked_ms = ? WHERE digest = ? AND state = 'doomed'"
        await self._file.write(lambda db: db.execute(statement, (now_ms, digest)))

    async def claim(self, digest: str) -> None:
        """Unmark what is to be written."""
        await self._file.write(partial(_claim, digest))

    async def spot(self, name: str) -> str:
        """Return where a round ended."""
        query = "SELECT value FROM meta WHERE name = ?"
        row = await self._file.read(lambda db: db.execute(query, (f"spot {name}",)).fetchone())
        return row[0] if row else ""

    async def set_spot(self, name: str, place: str) -> None:
        """Keep where the next round begins."""
        statement = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
        await self._file.write(lambda db: db.execute(statement, (f"spot {name}", place)))


def _expire(now_ms: int, db: sqlite3.Connection) -> int:
    query = "SELECT id, namespace, key, version, body FROM records WHERE hard_ms > 0 AND hard_ms <= ? LIMIT ?"
    rows = db.execute(query, (now_ms, AT_ONCE)).fetchall()
    for ident, namespace, key, version, body in rows:
        update = (
            "UPDATE records SET deleted = 1, hard_ms = 0, blob = '', tags = '[]', body = ?, value = NULL WHERE id = ?"
        )
        db.execute(update, (tombstone_bytes(namespace, key, version, body), ident))
        _unindex(db, ident)
    return len(rows)


def _bury(before: str, db: sqlite3.Connection) -> int:
    rows = db.execute(_BURIED, (before, AT_ONCE)).fetchall()
    for ident, _ in rows:
        _unindex(db, ident)
        db.execute("DELETE FROM records WHERE id = ?", (ident,))
    if rows:
        db.execute(_RAISE, (rows[-1][1],))
    return len(rows)


def _unindex(db: sqlite3.Connection, ident: int) -> None:
    db.execute("DELETE FROM vectors WHERE record = ?", (ident,))
    db.execute("DELETE FROM words WHERE rowid = ?", (ident,))


def _doom(now_ms: int, most: int, db: sqlite3.Connection) -> list[str]:
    now_s = time.time()
    db.execute("DELETE FROM marks WHERE state = 'gone' AND marked_ms < ?", (now_ms - GONE_MS,))
    db.execute(f"DELETE FROM marks WHERE state = 'marked' AND NOT ({_UNNAMED})")
    query = (
        "SELECT digest FROM marks WHERE ((state = 'marked' AND marked_ms <= ?) OR (state = 'doomed' AND since < ?))"
        f" AND {_UNNAMED} ORDER BY digest LIMIT ?"
    )
    digests = [row[0] for row in db.execute(query, (now_ms - MARK_MS, now_s - LEASE_S, most)).fetchall()]
    db.executemany("UPDATE marks SET state = 'doomed', since = ? WHERE digest = ?", [(now_s, it) for it in digests])
    return digests


def _claim(digest: str, db: sqlite3.Connection) -> None:
    statement = "DELETE FROM marks WHERE digest = ? AND (state <> 'doomed' OR since < ?)"
    db.execute(statement, (digest, time.time() - LEASE_S))
    if db.execute("SELECT 1 FROM marks WHERE digest = ?", (digest,)).fetchone():
        raise blob_going(digest)
