"""The tables in PostgreSQL: made at the first use, by whoever comes first.

`sparkd_records` has the newest version of each key, `sparkd_history` what lost or was replaced, `sparkd_vectors` the
pieces of texts with what a search filters by, `sparkd_marks` blobs that nothing names, `sparkd_meta` the rest. They
stand in the first schema of the user's search path. Keys are bytes, for a text cannot hold every character.

A row's `xid` is the transaction that wrote it: `changes` reads those below every transaction that still runs. A plain
sequence would not do: its numbers are drawn before the commit, so a reader passes those that come late.
"""

from __future__ import annotations

import secrets

from sparkd import CallError, CallErrorKind, Log

from .postgres_link import Ask, attempt
from .record_store import LAYOUT

LOCK = 0x73706172_6B644C31
"""Our advisory lock for laying out: any number that others hardly use."""
_TABLES = """
CREATE SEQUENCE IF NOT EXISTS sparkd_changes;
CREATE TABLE IF NOT EXISTS sparkd_records (
  namespace text COLLATE "C" NOT NULL, key bytea NOT NULL, version text COLLATE "C" NOT NULL,
  deleted boolean NOT NULL, hard_ms bigint NOT NULL, blob text COLLATE "C" NOT NULL,
  content_type text COLLATE "C" NOT NULL, tags text[] COLLATE "C" NOT NULL, words tsvector NOT NULL,
  body bytea NOT NULL, value bytea,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(), seq bigint NOT NULL DEFAULT nextval('sparkd_changes'),
  PRIMARY KEY (namespace, key));
CREATE INDEX IF NOT EXISTS sparkd_records_changes ON sparkd_records (xid, seq);
CREATE INDEX IF NOT EXISTS sparkd_records_blobs ON sparkd_records (blob) WHERE blob <> '';
CREATE INDEX IF NOT EXISTS sparkd_records_expiry ON sparkd_records (hard_ms) WHERE hard_ms > 0;
CREATE INDEX IF NOT EXISTS sparkd_records_tombstones ON sparkd_records (version) WHERE deleted;
CREATE INDEX IF NOT EXISTS sparkd_records_words ON sparkd_records USING gin (words);
CREATE TABLE IF NOT EXISTS sparkd_history (
  namespace text COLLATE "C" NOT NULL, key bytea NOT NULL, version text COLLATE "C" NOT NULL,
  hard_ms bigint NOT NULL, blob text COLLATE "C" NOT NULL, body bytea NOT NULL, value bytea,
  PRIMARY KEY (namespace, key, version));
CREATE INDEX IF NOT EXISTS sparkd_history_blobs ON sparkd_history (blob) WHERE blob <> '';
CREATE TABLE IF NOT EXISTS sparkd_vectors (
  namespace text COLLATE "C" NOT NULL, key bytea NOT NULL, piece integer NOT NULL,
  model text COLLATE "C" NOT NULL, dims integer NOT NULL, begins bigint NOT NULL, ends bigint NOT NULL,
  hard_ms bigint NOT NULL, content_type text COLLATE "C" NOT NULL, tags text[] COLLATE "C" NOT NULL,
  vector {kind} NOT NULL, PRIMARY KEY (namespace, key, piece));
CREATE INDEX IF NOT EXISTS sparkd_vectors_models ON sparkd_vectors (namespace, model, dims);
CREATE TABLE IF NOT EXISTS sparkd_marks (
  digest text COLLATE "C" PRIMARY KEY, state text NOT NULL, marked_ms bigint NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS sparkd_meta (name text COLLATE "C" PRIMARY KEY, value text COLLATE "C" NOT NULL)
"""
_COLUMNS = "namespace, key, version, hard_ms, blob, body, value"
# One call is one round trip and one transaction. Every statement in it sees what was committed before it began, so
# the floor is read after the row is ours: a tombstone that was swept meanwhile has raised it by then.
_PUT = f"""
CREATE OR REPLACE FUNCTION sparkd_put(
  p_namespace text, p_key bytea, p_version text, p_etag text, p_deleted boolean, p_hard_ms bigint, p_blob text,
  p_type text, p_tags text[], p_words text, p_body bytea, p_value bytea,
  p_models text[], p_dims integer[], p_begins bigint[], p_ends bigint[], p_vectors text[],
  OUT outcome text, OUT winner text) LANGUAGE plpgsql AS $$
DECLARE
  was record;
BEGIN
  IF p_blob <> '' THEN
    DELETE FROM sparkd_marks WHERE digest = p_blob AND state = 'marked';
    IF EXISTS (SELECT FROM sparkd_marks WHERE digest = p_blob) THEN
      outcome := 'gone'; RETURN;
    END IF;
  END IF;
  LOOP
    SELECT r.version, r.deleted INTO was FROM sparkd_records r
      WHERE r.namespace = p_namespace AND r.key = p_key FOR UPDATE;
    EXIT WHEN FOUND;
    winner := '';
    IF p_etag <> '' THEN
      outcome := 'older'; RETURN;
    END IF;
    INSERT INTO sparkd_records (namespace, key, version, deleted, hard_ms, blob, content_type, tags, words, body, value)
      VALUES (p_namespace, p_key, p_version, p_deleted, p_hard_ms, p_blob, p_type, p_tags,
              to_tsvector('simple', p_words), p_body, p_value) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      IF EXISTS (SELECT FROM sparkd_meta m WHERE m.name = 'floor' AND p_version COLLATE "C" < m.value) THEN
        DELETE FROM sparkd_records r WHERE r.namespace = p_namespace AND r.key = p_key;
        IF p_etag IS NULL THEN
          INSERT INTO sparkd_history ({_COLUMNS})
            VALUES (p_namespace, p_key, p_version, p_hard_ms, p_blob, p_body, p_value) ON CONFLICT DO NOTHING;
        END IF;
        outcome := 'floor'; RETURN;
      END IF;
      outcome := 'stored';
    END IF;
    EXIT WHEN outcome = 'stored';
  END LOOP;
  IF outcome IS NULL THEN
    winner := was.version;
    IF winner = p_version THEN
      outcome := 'same'; RETURN;
    END IF;
    IF p_etag IS NOT NULL AND p_etag <> winner AND NOT (p_etag = '' AND was.deleted) THEN
      outcome := CASE WHEN EXISTS (SELECT FROM sparkd_history h WHERE h.namespace = p_namespace AND h.key = p_key
                                   AND h.version = p_version) THEN 'same' ELSE 'older' END;
      RETURN;
    END IF;
    IF p_version COLLATE "C" < winner COLLATE "C" THEN
      IF p_etag IS NULL THEN
        INSERT INTO sparkd_history ({_COLUMNS})
          VALUES (p_namespace, p_key, p_version, p_hard_ms, p_blob, p_body, p_value) ON CONFLICT DO NOTHING;
      END IF;
      outcome := 'older'; RETURN;
    END IF;
    INSERT INTO sparkd_history ({_COLUMNS}) SELECT {_COLUMNS} FROM sparkd_records r
      WHERE r.namespace = p_namespace AND r.key = p_key ON CONFLICT DO NOTHING;
    UPDATE sparkd_records r SET version = p_version, deleted = p_deleted, hard_ms = p_hard_ms, blob = p_blob,
      content_type = p_type, tags = p_tags, words = to_tsvector('simple', p_words), body = p_body, value = p_value,
      xid = pg_current_xact_id(), seq = nextval('sparkd_changes') WHERE r.namespace = p_namespace AND r.key = p_key;
    DELETE FROM sparkd_vectors v WHERE v.namespace = p_namespace AND v.key = p_key;
  END IF;
  INSERT INTO sparkd_vectors SELECT p_namespace, p_key, t.n, t.model, t.dims, t.begins, t.ends, p_hard_ms, p_type,
    p_tags, {{numbers}} FROM unnest(p_models, p_dims, p_begins, p_ends, p_vectors) WITH ORDINALITY
    AS t (model, dims, begins, ends, numbers, n);
  outcome := 'stored'; winner := p_version;
END $$
"""
_KINDS = {
    "pgvector": ("vector", "t.numbers::vector"),
    "real": ("real[]", "translate(t.numbers, '[]', '{}')::real[]"),
}
_RESTORED = "SELECT EXISTS (SELECT FROM sparkd_records WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"


async def lay_out(ask: Ask, log: Log) -> str:
    """Make the tables, or what they lack; return how vectors are kept: `pgvector`, or `real` where it is not there.

    Fails with UNAVAILABLE if they were laid out by a newer version.
    """
    await ask("BEGIN")
    await ask(f"SELECT pg_advisory_xact_lock({LOCK})")
    meta = dict[str, str]()
    if (await ask("SELECT to_regclass('sparkd_meta') IS NOT NULL"))[0][0]:
        meta = {row[0]: row[1] for row in await ask("SELECT name, value FROM sparkd_meta")}
    if int(meta.get("layout", "0")) > LAYOUT:
        message = f"the tables in PostgreSQL have layout {meta['layout']}, and this version knows {LAYOUT}"
        raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="bring this node to the newer version")
    kind = "pgvector" if meta.get("vectors") == "pgvector" else await _extension(ask, log)
    column, numbers = _KINDS[kind]
    if meta.get("layout") != str(LAYOUT) or kind != meta.get("vectors"):
        await ask(_TABLES.replace("{kind}", column))
        if meta.get("vectors") == "real" != kind:
            await ask("ALTER TABLE sparkd_vectors ALTER COLUMN vector TYPE vector USING vector::vector")
        await ask(_PUT.replace("{numbers}", numbers))
        await _note(ask, "layout", str(LAYOUT))
        await _note(ask, "vectors", kind)
    await _name(ask, log, known="ident" in meta)
    await ask("COMMIT")
    return kind


async def _extension(ask: Ask, log: Log) -> str:
    why = await attempt(ask, "CREATE EXTENSION IF NOT EXISTS vector")
    if not why and not (await ask("SELECT to_regtype('vector') IS NOT NULL"))[0][0]:
        why = "it stands in a schema that is not in the user's search_path"
    if why:
        log.warning("PostgreSQL without pgvector: searches compare every vector", reason=why)
    return "real" if why else "pgvector"


async def _name(ask: Ask, log: Log, *, known: bool) -> None:
    """Give the tier its ident; another one if it was restored from a backup into a server that counts from anew."""
    restored = known and (await ask(_RESTORED))[0][0]
    if restored:
        log.warning("PostgreSQL was restored from a copy: changes are numbered anew")
        await ask("UPDATE sparkd_records SET xid = pg_current_xact_id()")
    if restored or not known:
        await _note(ask, "ident", secrets.token_hex(16))


async def _note(ask: Ask, name: str, value: str) -> None:
    await ask(
        "INSERT INTO sparkd_meta VALUES (%(name)s, %(value)s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        {"name": name, "value": value},
    )
