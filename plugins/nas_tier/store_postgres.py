"""Records in PostgreSQL. Every call is one statement on one connection: a round trip, and atomic among all nodes."""

from __future__ import annotations

from typing import Any

from sparkd import Log, MemoryRecord, TierAbout, TierChanges, TierMatch, TierPut

from .postgres_link import Ask, PostgresLink, Row
from .postgres_schema import lay_out
from .postgres_search import PostgresSearch
from .record_store import (
    FLOAT_BYTES,
    PAGE_BYTES,
    SMALL_VALUE,
    WORDS_TEXT,
    Wanted,
    blob_gone,
    floats,
    head_bytes,
    parse_cursor,
    readable,
    record_from,
)

COUNTED = 100_000
"""Records beyond that are counted by the planner's estimate."""
_PUT = (
    "SELECT outcome, winner FROM sparkd_put(%(namespace)s, %(key)b, %(version)s, %(etag)s::text, %(deleted)s,"
    " %(hard_ms)s::bigint, %(blob)s, %(content_type)s, %(tags)s::text[], %(words)s, %(body)b, %(value)b::bytea,"
    " %(models)s::text[], %(dims)s::integer[], %(begins)s::bigint[], %(ends)s::bigint[], %(vectors)s::text[])"
)
_GET = "SELECT body, value FROM sparkd_records WHERE namespace = %(namespace)s AND key = %(key)b"
_HISTORY = """
SELECT body, value FROM (
  SELECT version, body, value FROM sparkd_records WHERE namespace = %(namespace)s AND key = %(key)b
  UNION ALL SELECT version, body, value FROM sparkd_history WHERE namespace = %(namespace)s AND key = %(key)b) all_of_it
ORDER BY version DESC
"""
# The page is cut where its bytes are many, and after its first row at the earliest.
_CHANGES = """
WITH page AS (
  SELECT xid, seq, body,
    CASE WHEN %(whole)s OR octet_length(value) <= %(small)s THEN value END AS value
  FROM sparkd_records
  WHERE (xid, seq) > (%(xid)s::text::xid8, %(seq)s::bigint) AND xid < pg_snapshot_xmin(pg_current_snapshot())
  ORDER BY xid, seq LIMIT %(limit)s + 1),
weighed AS (
  SELECT *, row_number() OVER w AS n, count(*) OVER () AS found,
    sum(octet_length(body) + coalesce(octet_length(value), 0)) OVER w - octet_length(body) AS weight
  FROM page WINDOW w AS (ORDER BY xid, seq))
SELECT m.value, p.xid::text, p.seq, p.body, p.value, p.found
FROM sparkd_meta m LEFT JOIN weighed p ON p.n = 1 OR (p.n <= %(limit)s AND p.weight <= %(bytes)s)
WHERE m.name = 'ident' ORDER BY p.n
"""
_ABOUT = f"""
SELECT (SELECT value FROM sparkd_meta WHERE name = 'ident'), (SELECT value FROM sparkd_meta WHERE name = 'floor'),
  (SELECT count(*) FROM (SELECT FROM sparkd_records LIMIT {COUNTED}) AS counted),
  (SELECT greatest(reltuples::bigint, {COUNTED}) FROM pg_class WHERE oid = 'sparkd_records'::regclass),
  pg_total_relation_size('sparkd_records') + pg_total_relation_size('sparkd_history')
    + pg_total_relation_size('sparkd_vectors'),
  pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'
"""


class PostgresRecords:
    """The records of the long tier in a PostgreSQL database that nodes share."""

    def __init__(self, link: PostgresLink, search: PostgresSearch) -> None:
        """Ask through *link*."""
        self._link, self._search = link, search

    async def about(self) -> TierAbout:
        """Say how it is."""
        ident, floor, counted, guessed, size, standby, only_read = (await self._link.ask(_ABOUT, {}))[0]
        reason = ""
        if standby or only_read:
            reason = "the server is a standby" if standby else "the server takes no writes"
        elif not self._search.indexed:
            reason = "without pgvector: searches compare every vector"
        return TierAbout(
            ident=ident,
            kind="postgresql",
            floor=floor or "",
            records=guessed if counted == COUNTED else counted,
            bytes=int(size),
            writable=not (standby or only_read),
            reason=reason,
        )

    async def get(self, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key."""
        rows = await self._link.ask(_GET, _place(namespace, key))
        return record_from(*rows[0]) if rows else None

    async def put(self, record: MemoryRecord, *, etag: str | None = None) -> TierPut:
        """Keep *record* by the function `sparkd_put`, which compares and sets."""
        ((outcome, winner),) = await self._link.ask(_PUT, _put_params(record, etag))
        if outcome == "gone":
            raise blob_gone(record.digest)
        self._search.noticed(record)
        return TierPut(outcome=outcome, winner=winner)

    async def history(self, namespace: str, key: str) -> list[MemoryRecord]:
        """Return what is kept of a key, newest first; what cannot be read is left out."""
        return list(readable(await self._link.ask(_HISTORY, _place(namespace, key))))

    async def changes(self, cursor: str, *, limit: int, whole: bool) -> TierChanges:
        """Return what changed after *cursor*; all, if it is a cursor of what the tier was before."""
        known, xid, seq = parse_cursor(cursor)
        rows = await self._changes(xid, seq, limit=limit, whole=whole)
        ident = rows[0][0] if rows else ""
        if known != ident and (xid, seq) != (0, 0):
            rows = await self._changes(0, 0, limit=limit, whole=whole)
            known, xid, seq = ident, 0, 0
        found = [row for row in rows if row[1] is not None]
        if found:
            xid, seq = int(found[-1][1]), found[-1][2]
        records = list(readable((row[3], row[4]) for row in found))
        return TierChanges(
            records=records, cursor=f"{ident}:{xid}:{seq}", more=bool(found) and found[0][5] > len(found)
        )

    async def search(self, wanted: Wanted) -> list[TierMatch]:
        """Find records by vectors, or by words."""
        return await self._search.find(wanted)

    async def _changes(self, xid: int, seq: int, *, limit: int, whole: bool) -> list[Row]:
        params = {"xid": str(xid), "seq": seq, "limit": limit, "whole": whole}
        return await self._link.ask(_CHANGES, {**params, "small": SMALL_VALUE, "bytes": PAGE_BYTES})


def layout_of(search: PostgresSearch, log: Log) -> Any:
    """Return what a link calls to lay the tables out; it tells *search* whether there is pgvector."""

    async def lay(ask: Ask) -> None:
        search.learn(indexed=await lay_out(ask, log) == "pgvector")

    return lay


def _place(namespace: str, key: str) -> dict[str, Any]:
    return {"namespace": namespace.replace("\0", "\ufffd"), "key": key.encode(errors="replace")}


def _put_params(record: MemoryRecord, etag: str | None) -> dict[str, Any]:
    vectors = record.vectors
    return {
        **_place(record.namespace, record.key),
        "version": record.version,
        "etag": etag,
        "deleted": record.deleted,
        "hard_ms": record.hard_ms,
        "blob": record.digest if record.is_blob else "",
        "content_type": clean(record.content_type),
        "tags": [clean(tag) for tag in record.tags],
        "words": "" if record.deleted else clean(record.text[:WORDS_TEXT]),
        "body": head_bytes(record),
        "value": record.value,
        "models": [vector.model for vector in vectors],
        "dims": [len(vector.numbers) // FLOAT_BYTES for vector in vectors],
        "begins": [vector.begin for vector in vectors],
        "ends": [vector.end for vector in vectors],
        "vectors": [as_text(floats(vector.numbers, field="record")) for vector in vectors],
    }


def clean(text: str) -> str:
    """Return *text* as PostgreSQL can hold it: without NUL. What is given back comes from the body."""
    return text.replace("\0", "\ufffd")


def as_text(numbers: tuple[float, ...]) -> str:
    """Return a vector as pgvector reads it. Nine digits are all that a 32-bit float has."""
    return "[" + ",".join(f"{number:.9g}" for number in numbers) + "]"
