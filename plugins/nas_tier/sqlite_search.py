"""Finding records in SQLite: by words through FTS5, by vectors by comparing each that passes the filter.

At the size of one node's memory that is quick enough: numpy compares 50,000 vectors of 384 numbers in well under a
second. They are read in blocks, so that the memory it takes does not grow with them.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkd import CallError, TierMatch

from .record_store import Wanted, record_from, unit, words_of

BLOCK = 1024
"""Vectors at once: 1.5 MiB of 384 numbers."""
_FILTER = (
    " NOT r.deleted AND (r.hard_ms = 0 OR r.hard_ms > :now_ms)"
    " AND r.namespace IN (SELECT value FROM json_each(:namespaces))"
    " AND (:content_types = '[]' OR r.content_type IN (SELECT value FROM json_each(:content_types)))"
    " AND (:tags = '[]' OR NOT EXISTS (SELECT value FROM json_each(:tags) EXCEPT SELECT value FROM json_each(r.tags)))"
)
_WORDS = (
    "SELECT r.id, -bm25(words), 0, 0 FROM words JOIN records r ON r.id = words.rowid WHERE words MATCH :words AND"
    + _FILTER
    + " ORDER BY bm25(words), r.version DESC LIMIT :limit"
)
_VECTORS = (
    "SELECT v.record, v.begins, v.ends, v.numbers FROM vectors v JOIN records r ON r.id = v.record"
    " WHERE v.model = :model AND v.dims = :dims AND v.namespace IN (SELECT value FROM json_each(:namespaces)) AND"
    + _FILTER
)


@dataclass(frozen=True, slots=True, order=True)
class _Piece:
    score: float
    record: int
    begins: int
    ends: int


def find(wanted: Wanted, db: sqlite3.Connection) -> list[TierMatch]:
    """Find records by the vector of *wanted*, or by its words, as they were at one moment."""
    params: dict[str, Any] = {
        "namespaces": json.dumps(wanted.namespaces),
        "tags": json.dumps(wanted.tags),
        "content_types": json.dumps(wanted.content_types),
        "now_ms": wanted.now_ms,
        "limit": wanted.limit,
    }
    db.execute("BEGIN")
    try:
        best = _near(wanted, params, db) if wanted.vector else _worded(wanted, params, db)
        return _matches(best, db)
    finally:
        db.execute("ROLLBACK")


def _worded(wanted: Wanted, params: dict[str, Any], db: sqlite3.Connection) -> list[_Piece]:
    words = words_of(wanted.text)
    if not words:
        return []
    asked = " OR ".join(f'"{word}"' for word in words)
    return [_Piece(row[1], row[0], row[2], row[3]) for row in db.execute(_WORDS, params | {"words": asked})]


def _near(wanted: Wanted, params: dict[str, Any], db: sqlite3.Connection) -> list[_Piece]:
    asked = np.asarray(unit(wanted.vector), dtype=np.float32)
    rows = db.execute(_VECTORS, params | {"model": wanted.model, "dims": len(asked)})
    best = dict[int, _Piece]()
    while block := rows.fetchmany(BLOCK):
        numbers = np.frombuffer(b"".join(row[3] for row in block), dtype="<f4").reshape(len(block), len(asked))
        scores = (numbers @ asked) / np.linalg.norm(numbers, axis=1)
        for (record, begins, ends, _), score in zip(block, scores.tolist(), strict=True):
            if record not in best or best[record].score < score:
                best[record] = _Piece(score, record, begins, ends)
        # A record that is cut off here comes back if a later piece of it is better.
        best = {piece.record: piece for piece in heapq.nlargest(wanted.limit, best.values())}
    return heapq.nlargest(wanted.limit, best.values())


def _matches(best: list[_Piece], db: sqlite3.Connection) -> list[TierMatch]:
    found = list[TierMatch]()
    for piece in best:
        (body,) = db.execute("SELECT body FROM records WHERE id = ?", (piece.record,)).fetchone()
        with suppress(CallError):  # one that is damaged must not hide the others
            found.append(TierMatch(record=record_from(body), score=piece.score, begin=piece.begins, end=piece.ends))
    return found
