"""The catalogue: what this node knows of every key, without the values, and what of its own writes is on its way.

One SQLite file. It can be made anew: the journal has the node's own writes, the tiers have the rest. So it need not be
synced, and a damaged one is set aside. All methods block: `Catalogue.run` calls them in a thread, one at a time.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
import msgspec

from sparkd import MAX_RECORD_VALUE, MemoryRecord

T = TypeVar("T")
SCHEMA = """
create table if not exists heads (
  namespace text not null, key text not null, version text not null, deleted integer not null, size integer not null,
  hard integer not null, tags text not null, digest text not null, body blob not null, primary key (namespace, key)
) without rowid;
create index if not exists heads_digest on heads (digest) where digest != '';
create table if not exists pending (
  namespace text not null, key text not null, seq integer not null, version text not null, size integer not null,
  body blob not null, primary key (namespace, key)
) without rowid;
create index if not exists pending_seq on pending (seq);
create table if not exists usage (namespace text primary key, records integer not null, bytes integer not null)
without rowid;
create table if not exists blobs (digest text primary key, seq integer not null) without rowid;
create table if not exists meta (name text primary key, value text not null) without rowid;
pragma user_version = 1;
"""
VERSION = 1
Applied = Literal["newer", "same", "older"]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MemoryRecord).decode


@dataclass(frozen=True, slots=True)
class Usage:
    """What stands in a namespace."""

    records: int = 0
    bytes: int = 0


def head_of(record: MemoryRecord) -> MemoryRecord:
    """Return *record* without what is large."""
    return msgspec.structs.replace(record, value=None, text="", vectors=[])


class Catalogue:
    """What this node knows."""

    def __init__(self, path: Path) -> None:
        """Open the file *path*, or make it. Raises OSError or sqlite3.Error if that cannot be done."""
        self._path = path
        self._limiter = anyio.CapacityLimiter(1)
        self.set_aside = ""
        """Where a damaged one went, if it was damaged."""
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self.set_aside = f"{path}.damaged"
            path.replace(self.set_aside)
            for ending in ("-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = off")
            db.execute("pragma cache_size = -2000")
            (found,) = db.execute("pragma user_version").fetchone()
            if found not in (0, VERSION):
                raise sqlite3.DatabaseError(f"{self._path} is of version {found}")
            db.executescript(SCHEMA)
            db.execute("select count(*) from meta, usage").fetchone()
        except sqlite3.Error:
            db.close()
            raise
        return db

    async def run(self, method: Callable[..., T], *given: object, **named: object) -> T:
        """Call a method of this in a thread."""
        return await anyio.to_thread.run_sync(partial(method, *given, **named), limiter=self._limiter)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def apply(self, records: Iterable[MemoryRecord]) -> list[Applied]:
        """Take what is newer of *records*; say of each what it was."""
        with self._transaction():
            return [self._apply(record) for record in records]

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _apply(self, record: MemoryRecord) -> Applied:
        where = (record.namespace, record.key)
        row = self._db.execute(
            "select version, deleted, size from heads where namespace = ? and key = ?", where
        ).fetchone()
        if row is not None and row[0] >= record.version:
            return "same" if row[0] == record.version else "older"
        tags, blob = json.dumps(record.tags), record.digest if record.size > MAX_RECORD_VALUE else ""
        self._db.execute(
            "insert or replace into heads values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*where, record.version, record.deleted, record.size, record.hard_ms, tags, blob, _encode(head_of(record))),
        )
        had, there = (0, 0) if row is None or row[1] else (1, row[2]), (0, 0) if record.deleted else (1, record.size)
        self._count(record.namespace, there[0] - had[0], there[1] - had[1])
        return "newer"

    def _count(self, namespace: str, records: int, size: int) -> None:
        self._db.execute(
            "insert into usage values (?, ?, ?) on conflict (namespace)"
            " do update set records = records + excluded.records, bytes = bytes + excluded.bytes",
            (namespace, records, size),
        )

    def note_written(self, written: Iterable[tuple[int, MemoryRecord]]) -> list[Applied]:
        """Take writes of this node, each with its number in the journal, as known and on their way."""
        applied = []
        with self._transaction():
            for seq, record in written:
                found = self._apply(record)
                applied.append(found)
                if record.is_blob:
                    self._db.execute("insert or replace into blobs values (?, ?)", (record.digest, seq))
                if found != "older":
                    self._db.execute(
                        "insert or replace into pending values (?, ?, ?, ?, ?, ?)",
                        (record.namespace, record.key, seq, record.version, len(record.value or b""), _encode(record)),
                    )
                self._set("noted", str(seq))
        return applied

    def pending(self, namespace: str, key: str) -> MemoryRecord | None:
        """Return this node's newest write of a key, if it is on its way still."""
        row = self._db.execute("select body from pending where namespace = ? and key = ?", (namespace, key)).fetchone()
        return None if row is None else _decode(row[0])

    def pending_keys(self, most: int) -> list[tuple[str, str, int]] | None:
        """Return all keys with writes on their way, and their numbers, in order; None if there are more than *most*."""
        rows = self._db.execute("select namespace, key, seq from pending order by seq limit ?", (most + 1,)).fetchall()
        return None if len(rows) > most else rows

    def pending_bytes(self) -> int:
        """Return how large the values of those are that are in the journal itself."""
        (size,) = self._db.execute("select coalesce(sum(size), 0) from pending").fetchone()
        return int(size)

    def arrived(self, seq: int) -> list[str]:
        """Note that the writes up to *seq* are everywhere; return the blobs nobody waits for now."""
        with self._transaction():
            self._db.execute("delete from pending where seq <= ?", (seq,))
            blobs = self._db.execute("delete from blobs where seq <= ? returning digest", (seq,)).fetchall()
        return [digest for (digest,) in blobs]

    def waiting_blobs(self) -> set[str]:
        """Return the digests of blobs that are on their way."""
        return {digest for (digest,) in self._db.execute("select digest from blobs")}

    def head(self, namespace: str, key: str) -> MemoryRecord | None:
        """Return what is known of a key, a tombstone too; None if nothing is."""
        row = self._db.execute("select body from heads where namespace = ? and key = ?", (namespace, key)).fetchone()
        return None if row is None else _decode(row[0])

    def listed(
        self, namespace: str, *, prefix: str, tags: list[str], after: str, now_ms: int, limit: int
    ) -> list[MemoryRecord]:
        """Return live keys of a namespace that begin with *prefix* and have all *tags*, by key, *after* one."""
        wanted = "".join(" and exists (select 1 from json_each(heads.tags) where value = ?)" for _ in tags)
        begin = "key > ?" if after >= prefix and after else "key >= ?"
        rows = self._db.execute(
            f"select body from heads where namespace = ? and {begin} and substr(key, 1, ?) = ? and not deleted"
            f" and (hard = 0 or hard > ?){wanted} order by key limit ?",
            (namespace, max(after, prefix), len(prefix), prefix, now_ms, *tags, limit),
        )
        return [_decode(body) for (body,) in rows]

    def with_blob(self, digest: str) -> MemoryRecord | None:
        """Return a record whose value is that blob."""
        row = self._db.execute("select body from heads where digest = ? and digest != '' limit 1", (digest,)).fetchone()
        return None if row is None else _decode(row[0])

    def tagged(self, namespace: str, tag: str) -> list[str]:
        """Return the live keys that have a tag."""
        rows = self._db.execute(
            "select key from heads where namespace = ? and not deleted"
            " and exists (select 1 from json_each(heads.tags) where value = ?)",
            (namespace, tag),
        )
        return [key for (key,) in rows]

    def heads(self, after: tuple[str, str], limit: int) -> list[MemoryRecord]:
        """Return what is known of keys, in order, after one."""
        rows = self._db.execute(
            "select body from heads where (namespace, key) > (?, ?) order by namespace, key limit ?", (*after, limit)
        )
        return [_decode(body) for (body,) in rows]

    def expire(self, now_ms: int, limit: int = 1000) -> int:
        """Forget what has expired; return how much there was."""
        with self._transaction():
            rows = self._db.execute(
                "select namespace, key, size from heads where hard > 0 and hard <= ? and not deleted limit ?",
                (now_ms, limit),
            ).fetchall()
            for namespace, key, size in rows:
                self._db.execute("delete from heads where namespace = ? and key = ?", (namespace, key))
                self._count(namespace, -1, -size)
        return len(rows)

    def before_write(self, namespace: str, key: str) -> tuple[MemoryRecord | None, Usage]:
        """Return what is known of a key, and what stands in its namespace."""
        row = self._db.execute("select records, bytes from usage where namespace = ?", (namespace,)).fetchone()
        return self.head(namespace, key), Usage() if row is None else Usage(*row)

    def usage(self) -> dict[str, Usage]:
        """Return what stands in each namespace."""
        return {name: Usage(records, size) for name, records, size in self._db.execute("select * from usage")}

    def forget_tombstones(self, before: str) -> int:
        """Forget deleted keys whose version is below *before*."""
        return self._db.execute("delete from heads where deleted and version < ?", (before,)).rowcount

    def forget(self, namespace: str, key: str, version: str) -> None:
        """Forget a key if it still has that version."""
        with self._transaction():
            row = self._db.execute(
                "delete from heads where namespace = ? and key = ? and version = ? returning deleted, size",
                (namespace, key, version),
            ).fetchone()
            if row is not None and not row[0]:
                self._count(namespace, -1, -row[1])

    def get_meta(self, name: str) -> str:
        """Return what was noted as *name*; nothing if nothing was."""
        row = self._db.execute("select value from meta where name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Note *value* as *name*."""
        self._set(name, value)

    def set_metas(self, notes: Mapping[str, str]) -> None:
        """Note several at once."""
        with self._transaction():
            for name, value in notes.items():
                self._set(name, value)

    def _set(self, name: str, value: str) -> None:
        self._db.execute("insert or replace into meta values (?, ?)", (name, value))


class _Transaction:
    """All within it, or nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("commit" if kind is None else "rollback")
