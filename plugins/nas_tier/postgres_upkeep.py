"""Cleaning the records in PostgreSQL. Each step is one statement; rows that another node is at are passed over."""

from __future__ import annotations

from .postgres_link import PostgresLink
from .record_store import GONE_MS, LEASE_S, MARK_MS, blob_going, tombstone_bytes

AT_ONCE = 500
"""Rows a statement: it holds their locks."""
_EXPIRED = """
SELECT namespace, key, version, body FROM sparkd_records WHERE hard_ms > 0 AND hard_ms <= %(now_ms)s
ORDER BY hard_ms LIMIT %(most)s
"""
_EXPIRE = """
WITH asked AS (
  SELECT * FROM unnest(%(namespaces)s::text[], %(keys)s::bytea[], %(versions)s::text[], %(bodies)s::bytea[])
    AS t (namespace, key, version, body)),
locked AS (
  SELECT r.namespace, r.key, a.body FROM sparkd_records r JOIN asked a USING (namespace, key)
  WHERE r.version = a.version COLLATE "C" AND NOT r.deleted ORDER BY r.namespace, r.key FOR UPDATE OF r SKIP LOCKED),
buried AS (
  UPDATE sparkd_records r SET deleted = true, hard_ms = 0, blob = '', tags = '{}', words = '', body = l.body,
    value = NULL FROM locked l WHERE r.namespace = l.namespace AND r.key = l.key RETURNING r.namespace, r.key),
cut AS (
  DELETE FROM sparkd_vectors v USING buried b WHERE v.namespace = b.namespace AND v.key = b.key)
SELECT count(*) FROM buried
"""
_TRIM = """
WITH many AS (
  SELECT namespace, key FROM sparkd_history GROUP BY namespace, key HAVING count(*) > %(most)s),
beyond AS (
  SELECT h.namespace, h.key, h.version,
    row_number() OVER (PARTITION BY h.namespace, h.key ORDER BY h.version DESC) AS n
  FROM sparkd_history h JOIN many USING (namespace, key)),
locked AS (
  SELECT h.ctid FROM sparkd_history h LEFT JOIN beyond b
    ON b.namespace = h.namespace AND b.key = h.key AND b.version = h.version AND b.n > %(most)s
  WHERE h.version < %(before)s COLLATE "C" OR (h.hard_ms > 0 AND h.hard_ms <= %(now_ms)s) OR b.n IS NOT NULL
  FOR UPDATE OF h SKIP LOCKED),
cut AS (DELETE FROM sparkd_history h USING locked l WHERE h.ctid = l.ctid RETURNING 1)
SELECT count(*) FROM cut
"""
# The floor rises in the transaction that removes the tombstones: `sparkd_put` sees both or none.
_BURY = """
WITH locked AS (
  SELECT namespace, key FROM sparkd_records WHERE deleted AND version < %(before)s COLLATE "C"
  ORDER BY version LIMIT %(most)s FOR UPDATE SKIP LOCKED),
cut AS (
  DELETE FROM sparkd_records r USING locked l WHERE r.namespace = l.namespace AND r.key = l.key RETURNING r.version),
raised AS (
  INSERT INTO sparkd_meta SELECT 'floor', max(version) FROM cut HAVING count(*) > 0
  ON CONFLICT (name) DO UPDATE SET value = greatest(sparkd_meta.value, excluded.value))
SELECT count(*) FROM cut
"""
_UNNAMED = """NOT EXISTS (SELECT FROM sparkd_records r WHERE r.blob <> '' AND r.blob = {digest} COLLATE "C")
  AND NOT EXISTS (SELECT FROM sparkd_history h WHERE h.blob <> '' AND h.blob = {digest} COLLATE "C")"""
_MARK = f"""
WITH new AS (
  INSERT INTO sparkd_marks (digest, state, marked_ms) SELECT d, 'marked', %(now_ms)s
  FROM unnest(%(digests)s::text[]) d WHERE {_UNNAMED.format(digest="d")} ON CONFLICT DO NOTHING RETURNING 1)
SELECT count(*) FROM new
"""
_DOOM = f"""
WITH ended AS (
  DELETE FROM sparkd_marks WHERE (state = 'gone' AND marked_ms < %(gone_ms)s)
    OR (state = 'marked' AND NOT ({_UNNAMED.format(digest="digest")}))),
locked AS (
  SELECT digest FROM sparkd_marks WHERE ((state = 'marked' AND marked_ms <= %(mark_ms)s)
    OR (state = 'doomed' AND since < clock_timestamp() - %(lease)s * interval '1 second'))
    AND {_UNNAMED.format(digest="digest")} ORDER BY digest LIMIT %(most)s FOR UPDATE SKIP LOCKED)
UPDATE sparkd_marks m SET state = 'doomed', since = clock_timestamp() FROM locked l WHERE m.digest = l.digest
RETURNING m.digest
"""
_GONE = "UPDATE sparkd_marks SET state = 'gone', marked_ms = %(now_ms)s WHERE digest = %(digest)s AND state = 'doomed'"
_CLAIM = """
WITH freed AS (
  DELETE FROM sparkd_marks WHERE digest = %(digest)s
    AND (state <> 'doomed' OR since < clock_timestamp() - %(lease)s * interval '1 second') RETURNING 1)
SELECT EXISTS (SELECT FROM sparkd_marks WHERE digest = %(digest)s) AND NOT EXISTS (SELECT FROM freed)
"""


class PostgresUpkeep:
    """Cleans; any node may, and several at once."""

    def __init__(self, link: PostgresLink) -> None:
        """Ask through *link*."""
        self._link = link

    async def expire(self, now_ms: int) -> int:
        """Make tombstones of some that have expired."""
        rows = await self._link.ask(_EXPIRED, {"now_ms": now_ms, "most": AT_ONCE})
        if not rows:
            return 0
        names, keys, versions, _ = zip(*rows, strict=True)
        new = [tombstone_bytes(name, bytes(key).decode(), version, body) for name, key, version, body in rows]
        params = {"namespaces": list(names), "keys": list(keys), "versions": list(versions), "bodies": new}
        return int((await self._link.ask(_EXPIRE, params))[0][0])

    async def trim(self, *, now_ms: int, before: str, most: int) -> int:
        """Remove history."""
        return int((await self._link.ask(_TRIM, {"now_ms": now_ms, "before": before, "most": most}))[0][0])

    async def bury(self, before: str) -> int:
        """Remove some tombstones and raise the floor."""
        return int((await self._link.ask(_BURY, {"before": before, "most": AT_ONCE}))[0][0])

    async def mark(self, digests: list[str], *, now_ms: int) -> int:
        """Mark what nothing names."""
        return int((await self._link.ask(_MARK, {"digests": digests, "now_ms": now_ms}))[0][0])

    async def doom(self, *, now_ms: int, most: int) -> list[str]:
        """Take out of the marks what is to go now."""
        params = {"mark_ms": now_ms - MARK_MS, "gone_ms": now_ms - GONE_MS, "lease": LEASE_S, "most": most}
        return [row[0] for row in await self._link.ask(_DOOM, params)]

    async def gone(self, digest: str, *, now_ms: int) -> None:
        """Note that the object is deleted."""
        await self._link.ask(_GONE, {"digest": digest, "now_ms": now_ms})

    async def claim(self, digest: str) -> None:
        """Unmark what is to be written."""
        if (await self._link.ask(_CLAIM, {"digest": digest, "lease": LEASE_S}))[0][0]:
            raise blob_going(digest)

    async def spot(self, name: str) -> str:
        """Return where a round ended."""
        rows = await self._link.ask("SELECT value FROM sparkd_meta WHERE name = %(name)s", {"name": f"spot {name}"})
        return rows[0][0] if rows else ""

    async def set_spot(self, name: str, place: str) -> None:
        """Keep where the next round begins."""
        statement = (
            "INSERT INTO sparkd_meta VALUES (%(name)s, %(place)s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        await self._link.ask(statement, {"name": f"spot {name}", "place": place})
