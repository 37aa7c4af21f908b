"""Finding records in PostgreSQL: by vectors through HNSW where pgvector is, by words through tsvector.

An index of vectors knows no namespaces and no tags: it gives neighbours, and those that do not pass the filter are
thrown away. With `hnsw.iterative_scan` it goes on, but ends at some number of rows. So what it gives is taken only if
it is enough; else the rows that pass the filter are compared one by one, and nothing of somebody else's hides them.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from sparkd import CallError, Log, MemoryRecord, TierMatch

from .postgres_link import Ask, PostgresLink, Row, literal
from .record_store import FLOAT_BYTES, Wanted, record_from, unit, words_of

Kind = tuple[str, int]
"""A model, and how many numbers its vectors have."""
INDEXED_DIMS = 2000
"""As far as pgvector indexes 32-bit vectors."""
PIECES = 4
"""Looked for per record that is wanted: a record has several, and counts once."""
MOST_PIECES = 2000
_FILTER = (
    "namespace = ANY(%(namespaces)s::text[]) AND tags @> %(tags)s::text[] AND (hard_ms = 0 OR hard_ms > %(now_ms)s)"
    " AND (%(content_types)s::text[] = '{{}}' OR content_type = ANY(%(content_types)s::text[]))"
)
_BEST = """
, best AS (SELECT DISTINCT ON (namespace, key) * FROM near ORDER BY namespace, key, distance)
SELECT r.body, 1 - b.distance AS score, b.begins, b.ends, (SELECT count(*) FROM near)
FROM best b JOIN sparkd_records r USING (namespace, key) WHERE NOT r.deleted ORDER BY b.distance LIMIT %(limit)s
"""
_SOME = (
    "WITH near AS MATERIALIZED (SELECT namespace, key, begins, ends, {distance} AS distance FROM sparkd_vectors"
    " WHERE model = {model} AND dims = {dims} AND " + _FILTER + " ORDER BY {distance} LIMIT %(pieces)s)" + _BEST
)
_ALL = (
    "WITH near AS MATERIALIZED (SELECT namespace, key, begins, ends, {distance} AS distance FROM sparkd_vectors"
    " WHERE model = {model} AND dims = {dims} AND " + _FILTER + ")" + _BEST
)
_WORDS = (
    "SELECT body, ts_rank(words, asked)::float8 AS score, 0, 0 FROM sparkd_records,"
    " to_tsquery('simple', %(words)s) asked"
    " WHERE words @@ asked AND NOT deleted AND " + _FILTER + " ORDER BY score DESC, version DESC LIMIT %(limit)s"
).replace("{{}}", "{}")
_INDEXED = "SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass({name})"


class PostgresSearch:
    """Searches, and the indexes of vectors that they need: one per model, built in the background by `build`."""

    def __init__(self, log: Log, news: MemoryObjectSendStream[Kind]) -> None:
        """Tell *news* of each model when it is first seen."""
        self._log, self._news = log, news
        self._seen = set[Kind]()
        self._link: PostgresLink
        self.indexed = True

    def through(self, link: PostgresLink) -> None:
        """Ask through *link*."""
        self._link = link

    def learn(self, *, indexed: bool) -> None:
        """Note whether pgvector is there."""
        self.indexed = indexed

    def noticed(self, record: MemoryRecord) -> None:
        """Have indexes made for the models of *record*."""
        for vector in record.vectors:
            self._notice((vector.model, len(vector.numbers) // FLOAT_BYTES))

    async def find(self, wanted: Wanted) -> list[TierMatch]:
        """Find records by the vector of *wanted*, or by its words."""
        params: dict[str, Any] = {
            "namespaces": [_clean(name) for name in wanted.namespaces],
            "tags": [_clean(tag) for tag in wanted.tags],
            "content_types": [_clean(name) for name in wanted.content_types],
            "now_ms": wanted.now_ms,
            "limit": wanted.limit,
        }
        if wanted.vector:
            return _matches(await self._near(wanted, params))
        words = words_of(wanted.text)
        if not words:
            return []
        return _matches(await self._link.ask(_WORDS, params | {"words": " | ".join(f"'{word}'" for word in words)}))

    async def build(self, kinds: MemoryObjectReceiveStream[Kind]) -> None:
        """Make the index of each model that is told; for ever."""
        async for model, dims in kinds:
            try:
                await self._link.build(lambda ask, kind=(model, dims): _index(ask, kind))  # type: ignore[misc] # a default
            except CallError as error:
                self._seen.discard((model, dims))
                self._log.warning("index of vectors not made", model=model, dims=dims, error=str(error))

    async def _near(self, wanted: Wanted, params: dict[str, Any]) -> list[Row]:
        numbers = unit(wanted.vector)
        kind = wanted.model, len(numbers)
        params["vector"] = "[" + ",".join(f"{number:.9g}" for number in numbers) + "]"
        pieces = wanted.limit * PIECES
        if self.indexed and kind[1] <= INDEXED_DIMS:
            self._notice(kind)
            while pieces <= MOST_PIECES:
                rows = await self._link.ask(self._statement(_SOME, kind), params | {"pieces": pieces})
                if len(rows) == wanted.limit:
                    return rows
                if not rows or rows[0][4] < pieces:
                    break  # the index has ended, and may have passed some
                pieces *= 4
        return await self._link.ask(self._statement(_ALL, kind), params)

    def _statement(self, text: str, kind: Kind) -> str:
        # The planner takes the index of a model only if the model stands in the statement, not in a parameter.
        model, dims = literal(kind[0]).replace("%", "%%"), kind[1]
        if self.indexed:
            distance = f"(vector::vector({dims})) <=> %(vector)s::vector({dims})"
        else:
            asked = "translate(%(vector)s, '[]', '{{}}')::real[]".replace("{{}}", "{}")
            distance = f"1 - (SELECT sum(a::float8 * b) FROM unnest(vector, {asked}) AS t (a, b))"
        return text.format(distance=f"({distance})", model=model, dims=dims)

    def _notice(self, kind: Kind) -> None:
        if self.indexed and kind not in self._seen and kind[1] <= INDEXED_DIMS:
            with suppress(Exception):
                self._news.send_nowait(kind)
                self._seen.add(kind)


async def _index(ask: Ask, kind: Kind) -> None:
    """Make the index of a model, while all goes on. One that was left half made by a crash is made anew."""
    model, dims = kind
    ((number,),) = await ask("SELECT hashtextextended(%(kind)s, 0)", {"kind": f"{dims} {model}"})
    name = f"sparkd_vectors_{number & (1 << 64) - 1:016x}"
    # Without waiting: who holds the lock makes the same index.
    if not (await ask("SELECT pg_try_advisory_lock(%(number)s)", {"number": number}))[0][0]:
        return
    state = await ask(_INDEXED.format(name=literal(name)))
    if state and state[0][0]:
        return
    if state:
        await ask(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    await ask(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON sparkd_vectors USING hnsw"
        f" ((vector::vector({dims})) vector_cosine_ops) WHERE model = {literal(model)} AND dims = {dims}"
    )


def _matches(rows: list[Row]) -> list[TierMatch]:
    found = list[TierMatch]()
    for row in rows:
        with suppress(CallError):  # one that is damaged must not hide the others
            score = float(row[1])
            if math.isfinite(score):
                found.append(TierMatch(record=record_from(row[0]), score=score, begin=row[2], end=row[3]))
    return found


def _clean(text: str) -> str:
    return text.replace("\0", "\ufffd")
