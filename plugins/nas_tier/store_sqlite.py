"""Records in a SQLite file of this node: for a node that has no PostgreSQL to share."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from typing import Any

from sparkd import MemoryRecord, TierAbout, TierChanges, TierMatch, TierPut

from .record_store import (
    FLOAT_BYTES,
    PAGE_BYTES,
    SMALL_VALUE,
    WORDS_TEXT,
    Wanted,
    blob_gone,
    head_bytes,
    parse_cursor,
    readable,
    record_from,
)
from .sqlite_file import SqliteFile
from .sqlite_search import find

_PLACE = " WHERE namespace = ? AND key = ?"
_COLUMNS = "namespace, key, version, hard_ms, blob, body, value"
_TO_HISTORY = f"INSERT OR IGNORE INTO history ({_COLUMNS})"
_INSERT = (
    "INSERT INTO records (namespace, key, version, deleted, hard_ms, blob, content_type, tags, body, value, change)"
    " VALUES (:namespace, :key, :version, :deleted, :hard_ms, :blob, :content_type, :tags, :body, :value, :change)"
)
_UPDATE = (
    "UPDATE records SET version = :version, deleted = :deleted, hard_ms = :hard_ms, blob = :blob,"
    " content_type = :content_type, tags = :tags, body = :body, value = :value, change = :change WHERE id = :id"
)


class SqliteRecords:
    """The records of the long tier in a file."""

    def __init__(self, file: SqliteFile) -> None:
        """Keep them in *file*."""
        self._file = file

    async def about(self) -> TierAbout:
        """Say how it is."""
        return await self._file.read(self._about)

    async def get(self, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key."""
        query = f"SELECT body, value FROM records{_PLACE}"
        row = await self._file.read(lambda db: db.execute(query, _place(namespace, key)).fetchone())
        return record_from(*row) if row else None

    async def put(self, record: MemoryRecord, *, etag: str | None = None) -> TierPut:
        """Keep *record* in one transaction."""
        return await self._file.write(partial(_put, record, etag))

    async def history(self, namespace: str, key: str) -> list[MemoryRecord]:
        """Return what is kept of a key, newest first; what cannot be read is left out."""
        query = (
            f"SELECT body, value FROM (SELECT version, body, value FROM records{_PLACE}"
            f" UNION ALL SELECT version, body, value FROM history{_PLACE}) ORDER BY version DESC"
        )
        place = _place(namespace, key)
        return list(readable(await self._file.read(lambda db: db.execute(query, (*place, *place)).fetchall())))

    async def changes(self, cursor: str, *, limit: int, whole: bool) -> TierChanges:
        """Return what changed after *cursor*; all, if it is a cursor of what the file was before."""
        return await self._file.read(partial(_changes, cursor, limit, whole))

    async def search(self, wanted: Wanted) -> list[TierMatch]:
        """Find records by vectors, or by words."""
        return await self._file.search(partial(find, wanted))

    def _about(self, db: sqlite3.Connection) -> TierAbout:
        meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('ident', 'floor')"))
        pages, page = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        count = db.execute("SELECT count(*) FROM records").fetchone()[0]
        return TierAbout(
            ident=meta["ident"], kind="sqlite", floor=meta.get("floor", ""), records=count, bytes=pages * page
        )


def _put(record: MemoryRecord, etag: str | None, db: sqlite3.Connection) -> TierPut:
    """Compare and set. Nobody else writes meanwhile: the transaction is immediate."""
    row = _row(record)
    _unmark(db, record)
    place = (record.namespace, record.key)
    found = db.execute(f"SELECT id, version, deleted FROM records{_PLACE}", place).fetchone()
    ident, winner, deleted = found or (None, "", True)
    refused = _refusal(db, record, etag, winner, gone=bool(deleted))
    if refused is not None:
        if etag is None and refused.outcome != "same":
            db.execute(f"{_TO_HISTORY} VALUES (:namespace, :key, :version, :hard_ms, :blob, :body, :value)", row)
        return refused
    db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE name = 'change'")
    row["change"] = int(db.execute("SELECT value FROM meta WHERE name = 'change'").fetchone()[0])
    if ident is None:
        ident = db.execute(_INSERT, row).lastrowid
    else:
        db.execute(f"{_TO_HISTORY} SELECT {_COLUMNS} FROM records WHERE id = ?", (ident,))
        db.execute(_UPDATE, row | {"id": ident})
        db.execute("DELETE FROM vectors WHERE record = ?", (ident,))
        db.execute("DELETE FROM words WHERE rowid = ?", (ident,))
    _index(db, ident, record)
    return TierPut(outcome="stored", winner=record.version)


def _unmark(db: sqlite3.Connection, record: MemoryRecord) -> None:
    if record.is_blob:
        db.execute("DELETE FROM marks WHERE digest = ? AND state = 'marked'", (record.digest,))
        if db.execute("SELECT 1 FROM marks WHERE digest = ?", (record.digest,)).fetchone():
            raise blob_gone(record.digest)


def _refusal(
    db: sqlite3.Connection, record: MemoryRecord, etag: str | None, winner: str, *, gone: bool
) -> TierPut | None:
    """Return why *record* is not the newest of its key; None if it is."""
    if winner and winner == record.version:
        return TierPut(outcome="same", winner=winner)
    if etag is not None and etag != winner and not (not etag and gone):
        query = f"SELECT 1 FROM history{_PLACE} AND version = ?"
        known = db.execute(query, (record.namespace, record.key, record.version)).fetchone()
        return TierPut(outcome="same" if known and winner else "older", winner=winner)
    if record.version < winner:
        return TierPut(outcome="older", winner=winner)
    floor = db.execute("SELECT value FROM meta WHERE name = 'floor'").fetchone()
    if not winner and floor and record.version < floor[0]:
        return TierPut(outcome="floor", winner="")
    return None


def _index(db: sqlite3.Connection, ident: int | None, record: MemoryRecord) -> None:
    if record.deleted:
        return
    if record.text:
        db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (ident, record.text[:WORDS_TEXT]))
    db.executemany(
        "INSERT INTO vectors VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (ident, record.namespace, it.model, len(it.numbers) // FLOAT_BYTES, it.begin, it.end, it.numbers)
            for it in record.vectors
        ],
    )


def _changes(cursor: str, limit: int, whole: bool, db: sqlite3.Connection) -> TierChanges:  # noqa: FBT001 - partial
    ident = db.execute("SELECT value FROM meta WHERE name = 'ident'").fetchone()[0]
    known, _, change = parse_cursor(cursor)
    change = change if known == ident else 0
    value = "CASE WHEN ? OR length(value) <= ? THEN value END"
    query = f"SELECT change, body, {value} FROM records WHERE change > ? ORDER BY change LIMIT ?"
    records, weight, count, more = list[MemoryRecord](), 0, 0, False
    for number, body, value_of in db.execute(query, (whole, SMALL_VALUE, change, limit + 1)):
        if count == limit or weight > PAGE_BYTES:
            more = True
            break
        records += readable([(body, value_of)])
        weight += len(body) + len(value_of or b"")
        change, count = number, count + 1
    return TierChanges(records=records, cursor=f"{ident}:0:{change}", more=more)


def _row(record: MemoryRecord) -> dict[str, Any]:
    return {
        "namespace": record.namespace,
        "key": record.key,
        "version": record.version,
        "deleted": int(record.deleted),
        "hard_ms": record.hard_ms,
        "blob": record.digest if record.is_blob else "",
        "content_type": record.content_type,
        "tags": json.dumps(record.tags),
        "body": head_bytes(record),
        "value": record.value,
    }


def _place(namespace: str, key: str) -> tuple[str, str]:
    return namespace.encode(errors="replace").decode(), key.encode(errors="replace").decode()
