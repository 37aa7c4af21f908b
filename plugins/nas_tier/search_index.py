"""This node's own index for searching: words by SQLite's FTS5, vectors by looking at all of them.

It is made anew from what the tiers say, so it is not synced, and a damaged file is set aside. An exact look at all
vectors is the fastest there is up to some ten thousand, and misses nothing; tier 3 has an index for more. All methods
block: they are called in a thread, one at a time.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sparkd import MemoryRecord, TierMatch

SCHEMA = """
create table if not exists texts (
  id integer primary key, namespace text not null, key text not null, version text not null, hard integer not null,
  content_type text not null, tags text not null, text text not null, body blob not null, unique (namespace, key)
);
create table if not exists vectors (
  text_id integer not null, model text not null, begin integer not null, end integer not null, numbers blob not null
);
create table if not exists noted (
  namespace text not null, key text not null, version text not null, hard integer not null, deleted integer not null,
  primary key (namespace, key)
) without rowid;
create index if not exists noted_hard on noted (hard) where hard > 0;
create index if not exists noted_deleted on noted (version) where deleted;
create index if not exists vectors_text on vectors (text_id);
create index if not exists vectors_model on vectors (model);
create virtual table if not exists words using fts5 (text, content='texts', content_rowid='id', tokenize='unicode61');
pragma user_version = 1;
"""
BLOCK = 4096
"""Vectors that are looked at at once: 6 MB of 384 dimensions."""
WORD = re.compile(r"\w+")
WORDS_MOST = 32
RANK_K = 60
"""Of reciprocal rank fusion: Cormack, Clarke, Buettcher, SIGIR 2009."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MemoryRecord).decode


class SearchIndex:
    """What can be searched on this node."""

    def __init__(self, path: Path) -> None:
        """Open the file *path*, or make it anew if it is damaged. Raises OSError or sqlite3.Error."""
        self.set_aside = ""
        """Where a damaged one went."""
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError:
            self.set_aside = f"{path}.damaged"
            path.replace(self.set_aside)
            for ending in ("-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            self._db = _open(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def put(self, record: MemoryRecord) -> None:
        """Take the text and vectors of *record*, unless a newer version of its key was noted: they come in any order.

        A record without a text, or a tombstone, removes what is there of its key.
        """
        namespace, key = record.namespace, record.key
        if self._noted(namespace, key) > record.version:
            return
        with self._db:
            self._db.execute("begin immediate")
            self._remove(namespace, key)
            self._db.execute(
                "insert or replace into noted values (?, ?, ?, ?, ?)",
                (namespace, key, record.version, record.hard_ms, record.deleted),
            )
            if record.deleted or not record.text:
                return
            body = _encode(msgspec.structs.replace(record, value=None, text="", vectors=[]))
            (text_id,) = self._db.execute(
                "insert into texts (namespace, key, version, hard, content_type, tags, text, body)"
                " values (?, ?, ?, ?, ?, ?, ?, ?) returning id",
                (
                    record.namespace,
                    record.key,
                    record.version,
                    record.hard_ms,
                    record.content_type,
                    json.dumps(record.tags),
                    record.text,
                    body,
                ),
            ).fetchone()
            self._db.execute("insert into words (rowid, text) values (?, ?)", (text_id, record.text))
            self._db.executemany(
                "insert into vectors values (?, ?, ?, ?, ?)",
                [(text_id, one.model, one.begin, one.end, one.numbers) for one in record.vectors],
            )

    def noted(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return the newest versions that were noted, with a text or without one, of those *keys* that are known."""
        found = {(namespace, key): self._noted(namespace, key) for namespace, key in keys}
        return {name: version for name, version in found.items() if version}

    def _noted(self, namespace: str, key: str) -> str:
        row = self._db.execute("select version from noted where namespace = ? and key = ?", (namespace, key)).fetchone()
        return "" if row is None else str(row[0])

    def lacking(self, after: int, limit: int) -> list[tuple[int, MemoryRecord]]:
        """Return records with a text and without vectors, each with its number, after that of *after*."""
        rows = self._db.execute(
            "select id, body, text from texts where id > ? and trim(text) != ''"
            " and not exists (select 1 from vectors where text_id = id) order by id limit ?",
            (after, limit),
        )
        return [(text_id, _with_text(body, text)) for text_id, body, text in rows]

    def _remove(self, namespace: str, key: str) -> None:
        row = self._db.execute(
            "select id, text from texts where namespace = ? and key = ?", (namespace, key)
        ).fetchone()
        if row is not None:
            text_id, text = row
            self._db.execute("insert into words (words, rowid, text) values ('delete', ?, ?)", (text_id, text))
            self._db.execute("delete from vectors where text_id = ?", (text_id,))
            self._db.execute("delete from texts where id = ?", (text_id,))

    def words(self, text: str, **filters: Any) -> list[TierMatch]:
        """Return what has any of the words of *text*, the best first. *filters*: as `near` has them."""
        words = list(dict.fromkeys(WORD.findall(text)))[:WORDS_MOST]
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)  # quoted: nobody's text is syntax
        where, given = _where(**{name: value for name, value in filters.items() if name != "limit"})
        rows = self._db.execute(
            "select texts.body, texts.text, -bm25(words) from words join texts on texts.id = words.rowid"
            f" where words match ? and {where} order by bm25(words) limit ?",
            (query, *given, filters["limit"]),
        )
        return [TierMatch(record=_with_text(body, whole), score=rank) for body, whole, rank in rows]

    def near(
        self,
        vector: bytes,
        model: str,
        *,
        namespaces: list[str],
        tags: list[str],
        content_types: list[str],
        now_ms: int,
        limit: int,
    ) -> list[TierMatch]:
        """Return what is nearest to *vector*, each key once by its nearest piece.

        Only in *namespaces*, with all *tags*, of one of *content_types* (any if there are none), not expired: what is
        not so is left out before the best *limit* are taken.
        """
        wanted = np.frombuffer(vector, dtype="<f4")
        where, given = _where(namespaces=namespaces, tags=tags, content_types=content_types, now_ms=now_ms)
        best: dict[int, tuple[float, int, int]] = {}
        for block in self._blocks(model, where, given):
            fitting = [row for row in block if len(row[3]) == len(vector)]
            if not fitting:
                continue
            scores = np.frombuffer(b"".join(row[3] for row in fitting), dtype="<f4").reshape(-1, len(wanted)) @ wanted
            for (text_id, begin, end, _), score in zip(fitting, scores.tolist(), strict=True):
                if text_id not in best or score > best[text_id][0]:
                    best[text_id] = (score, begin, end)
            if len(best) > 4 * limit:
                best = dict(sorted(best.items(), key=lambda item: -item[1][0])[:limit])
        found = sorted(best.items(), key=lambda item: -item[1][0])[:limit]
        return [self._match(text_id, *piece) for text_id, piece in found]

    def _blocks(self, model: str, where: str, given: list[Any]) -> Iterator[list[tuple[int, int, int, bytes]]]:
        rows = self._db.execute(
            "select text_id, begin, end, numbers from vectors join texts on texts.id = vectors.text_id"
            f" where vectors.model = ? and {where}",
            (model, *given),
        )
        while block := rows.fetchmany(BLOCK):
            yield block

    def _match(self, text_id: int, score: float, begin: int, end: int) -> TierMatch:
        body, whole = self._db.execute("select body, text from texts where id = ?", (text_id,)).fetchone()
        return TierMatch(record=_with_text(body, whole), score=score, begin=begin, end=end)

    def sweep(self, now_ms: int, tombstones_before: str, limit: int = 1000) -> int:
        """Forget what has expired, and tombstones of versions before that; return how much that was."""
        rows = self._db.execute(
            "select namespace, key from noted where hard > 0 and hard <= ?"
            " union select namespace, key from noted where deleted and version < ? limit ?",
            (now_ms, tombstones_before, limit),
        ).fetchall()
        with self._db:
            self._db.execute("begin immediate")
            for namespace, key in rows:
                self._remove(namespace, key)
                self._db.execute("delete from noted where namespace = ? and key = ?", (namespace, key))
        return len(rows)


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = off")
        db.execute("pragma cache_size = -2000")
        db.executescript(SCHEMA)
        db.execute("select count(*) from texts").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _where(*, namespaces: list[str], tags: list[str], content_types: list[str], now_ms: int) -> tuple[str, list[Any]]:
    """Return the condition of a search, and what is given to it."""
    parts = [f"texts.namespace in ({','.join('?' * len(namespaces))})", "(texts.hard = 0 or texts.hard > ?)"]
    given: list[Any] = [*namespaces, now_ms]
    if content_types:
        parts.append(f"texts.content_type in ({','.join('?' * len(content_types))})")
        given += content_types
    for tag in tags:
        parts.append("exists (select 1 from json_each(texts.tags) where value = ?)")
        given.append(tag)
    return " and ".join(parts), given


def _with_text(body: bytes, text: str) -> MemoryRecord:
    return msgspec.structs.replace(_decode(body), text=text)


def fuse(near: list[TierMatch], words: list[TierMatch], limit: int) -> list[TierMatch]:
    """Return both lists as one, by reciprocal rank: what stands high in one, or well in both, comes first.

    Scores are between 0 and 1, where 1 is the first of both. The piece is that of the vector, if there is one.
    """
    points: dict[tuple[str, str], float] = {}
    known: dict[tuple[str, str], TierMatch] = {}
    lists = [matches for matches in (near, words) if matches]
    for matches in lists:
        for rank, match in enumerate(matches, 1):
            name = (match.record.namespace, match.record.key)
            points[name] = points.get(name, 0.0) + 1.0 / (RANK_K + rank)
            if name not in known or (match.record.version > known[name].record.version):
                known[name] = match
    most = len(lists) / (RANK_K + 1)
    order = sorted(points, key=lambda name: -points[name])[:limit]
    return [replace(known[name], score=round(points[name] / most, 6)) for name in order]
