"""The long tier: records in PostgreSQL or SQLite, blobs on an S3 server or in a folder.

`get` and `put` are one round trip each; a `put` that names a blob asks for the blob first, which is another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from sparkd import (
    CallError,
    CallErrorKind,
    Log,
    MemoryRecord,
    Privacy,
    TierAbout,
    TierChanges,
    TierMatch,
    TierPut,
    TierSwept,
)

from .long_config import LongConfig
from .long_sweep import SweepOrder, sweep_long
from .objects import open_objects
from .objects_checked import Objects, check_blob, checked_in, checked_out
from .postgres_link import PostgresLink
from .postgres_search import Kind, PostgresSearch
from .postgres_upkeep import PostgresUpkeep
from .record_store import RecordStore, RecordUpkeep, Wanted, blob_gone, check_record, floats
from .sqlite_file import SqliteFile
from .sqlite_upkeep import SqliteUpkeep
from .store_postgres import PostgresRecords, layout_of
from .store_sqlite import SqliteRecords

MOST_CHANGES = 5000
"""Records in one answer."""
MOST_MATCHES = 500
KINDS_WAITING = 100
"""Models whose index waits to be built; one that finds no room is noticed again."""
RULE = "memory.reach"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    records: RecordStore
    upkeep: RecordUpkeep
    objects: Objects
    reach: Privacy


class LongTier:
    """The memory's home beyond the node."""

    def __init__(self, parts: _Parts) -> None:
        """Keep what it is given in *parts*."""
        self._records, self._upkeep, self._objects = parts.records, parts.upkeep, parts.objects
        self._reach = parts.reach

    async def about(self) -> TierAbout:
        """Say how it is. Fails with UNAVAILABLE if the records do not answer; that blobs do not is its reason."""
        about, reason = await self._records.about(), ""
        try:
            free = await self._objects.free()
        except CallError as error:
            free, reason = None, error.message
        return replace(about, free_bytes=free, reason="; ".join(filter(None, (about.reason, reason))))

    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key."""
        return await self._records.get(namespace, key)

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Keep *record* if it is the newest. Fails with the error `missing` if its blob is not there."""
        await self._check(record)
        return await self._records.put(record)

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Keep *record* only if the newest is *etag*. `same` if an earlier call has kept it, also if replaced since."""
        await self._check(record)
        return await self._records.put(record, etag=etag)

    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """Return what is kept of a key, newest first."""
        return await self._records.history(namespace, key)

    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """Return what changed after *cursor*; a cursor of what the tier was before begins anew."""
        return await self._records.changes(cursor, limit=min(max(limit, 1), MOST_CHANGES), whole=whole)

    async def has(self, *, digest: str) -> bool:
        """Whether it has a blob."""
        check_blob(digest, 0)
        return await self._objects.size(digest) is not None

    async def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob; a whole one is compared with its digest before the last chunk is given."""
        check_blob(digest, 0)
        if offset < 0 or (length is not None and length < 0):
            raise CallError(CallErrorKind.INVALID_PARAMS, "offset and length: not below 0 expected", field="offset")
        stream = self._objects.stream(digest, offset=offset, length=length)
        if not offset and length is None:
            stream = checked_out(digest, stream)
        async with aclosing(stream) as chunks:  # type: ignore[type-var] # a generator
            async for chunk in chunks:
                yield chunk

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob over what is there. Fails with UNAVAILABLE, for two minutes at most, while it is deleted."""
        check_blob(digest, size)
        await self._upkeep.claim(digest)
        async with aclosing(checked_in(digest, size, chunks)) as checked:  # type: ignore[type-var] # a generator
            await self._objects.store(digest, size=size, chunks=checked)

    async def search(
        self,
        *,
        namespaces: list[str],
        text: str = "",
        vector: bytes = b"",
        model: str = "",
        tags: list[str],
        content_types: list[str],
        now_ms: int,
        limit: int = 10,
    ) -> list[TierMatch]:
        """Find records by *vector*, or by any of the words of *text*; those that have more of them come first."""
        if not namespaces or limit < 1:
            return []
        wanted = Wanted(
            namespaces=namespaces,
            text=text,
            vector=floats(vector, field="vector") if vector else (),
            model=model.replace("\0", "\ufffd"),
            tags=tags,
            content_types=content_types,
            now_ms=now_ms,
            limit=min(limit, MOST_MATCHES),
        )
        return await self._records.search(wanted)

    async def drop(self, *, namespace: str, keys: list[str]) -> int:  # noqa: ARG002 - as the contract has it
        """Drop nothing: what is here is at home."""
        return 0

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Clean once: see `long_sweep`."""
        order = SweepOrder(
            now_ms=now_ms,
            tombstones_before=tombstones_before,
            history_before=history_before,
            history_most=max(history_most, 0),
            scrub=scrub,
        )
        return await sweep_long(self._upkeep, self._objects, order)

    async def _check(self, record: MemoryRecord) -> None:
        check_record(record)
        if record.privacy < self._reach:
            message = f"the long tier takes nothing of a class below {self._reach.label!r}"
            raise CallError(CallErrorKind.DENIED, message, rule=RULE)
        if record.is_blob and await self._objects.size(record.digest) is None:
            raise blob_gone(record.digest)


@asynccontextmanager
async def open_long(config: LongConfig, *, state_dir: Path, node_id: str, log: Log) -> AsyncIterator[LongTier]:
    """Open the long tier that *config* names, with what stands on this node in *state_dir*.

    Asks no server, so that a node starts without them. Fails with UNAVAILABLE for a client that cannot be made.
    """
    objects = await open_objects(config, state_dir=state_dir)
    reach = Privacy.parse(config.reach)
    if config.in_postgres:
        async with _postgres(config, node_id, log) as (records, upkeep):
            yield LongTier(_Parts(records=records, upkeep=upkeep, objects=objects, reach=reach))
        return
    file = SqliteFile(Path(config.records) if config.records else state_dir / "records.db")
    try:
        yield LongTier(_Parts(records=SqliteRecords(file), upkeep=SqliteUpkeep(file), objects=objects, reach=reach))
    finally:
        await file.aclose()


@asynccontextmanager
async def _postgres(
    config: LongConfig, node_id: str, log: Log
) -> AsyncIterator[tuple[PostgresRecords, PostgresUpkeep]]:
    news, kinds = anyio.create_memory_object_stream[Kind](KINDS_WAITING)
    with news, kinds:
        search = PostgresSearch(log, news)
        link = PostgresLink(config, layout_of(search, log), name=f"sparkd {node_id}")
        search.through(link)
        try:
            async with anyio.create_task_group() as background:
                background.start_soon(search.build, kinds)
                yield PostgresRecords(link, search), PostgresUpkeep(link)
                background.cancel_scope.cancel()
        finally:
            await link.aclose()
