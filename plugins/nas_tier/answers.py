"""The interface `memory`: who may do what, and what becomes of each call."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio

from sparkd import (
    MAX_INLINE_BYTES,
    CallError,
    CallErrorKind,
    CallInfo,
    MemoryEntry,
    MemoryFound,
    MemoryHead,
    MemoryImported,
    MemoryOperation,
    MemoryOutcome,
    MemoryPage,
    MemoryRecord,
    MemoryStats,
    MemoryWritten,
    Privacy,
    current_call,
)

from .given import check_etag, packed
from .heads import public_head
from .namespaces import NamespaceConfig, check_key, check_tags
from .parts import Parts
from .reading import Found
from .searching import Question
from .stats import stats_of
from .writing import Draft

LIST_MOST = 1000
SEARCH_MOST = 200
BATCH_MOST = 500
QUERY_MOST = 8192


class Answers:
    """Answers calls."""

    def __init__(self, parts: Parts) -> None:
        """Answer with *parts*."""
        self._parts = parts

    def _reads(self, namespace: str, key: str | None = None) -> NamespaceConfig:
        if key is not None:
            check_key(key)
        return self._parts.namespaces.check_read(namespace, current_call(), node=self._parts.node)

    def _writes(self, namespace: str, key: str | None = None) -> NamespaceConfig:
        if key is not None:
            check_key(key)
        return self._parts.namespaces.check_write(namespace, current_call(), node=self._parts.node)

    async def get(self, *, namespace: str, key: str, max_age_s: float | None = None) -> MemoryEntry | None:
        """Return what stands under a key."""
        config = self._reads(namespace, key)
        found = await self._parts.reading.get(namespace, key, config, max_age_s=max_age_s)
        return await self._entry(found)

    async def _entry(self, found: Found) -> MemoryEntry | None:
        record = found.record
        if record is None:
            return None
        value = None
        if record.size <= MAX_INLINE_BYTES:
            value = await self._parts.blobs.whole(record, first=found.place)
        return MemoryEntry(
            head=public_head(record),
            value=value,
            tier=found.place.name if found.place is not None else "journal",
            age_s=max(self._parts.clock.now_ms() - record.written_ms, 0) / 1000,
            stale=bool(found.stale),
            reason=found.stale,
        )

    async def read(
        self, *, namespace: str, key: str, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Stream a value."""
        config = self._reads(namespace, key)
        if offset < 0 or (length is not None and length < 0):
            text = f"offset and length: 0 or more expected, got {offset} and {length}"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="offset")
        found = await self._parts.reading.get(namespace, key, config)
        if found.record is None:
            raise CallError(CallErrorKind.FAILED, f"nothing stands under {key[:60]!r}", error="missing")
        async for chunk in self._parts.blobs.read(found.record, offset=offset, length=length, first=found.place):
            yield chunk

    async def list_(
        self, *, namespace: str, prefix: str = "", tags: list[str] | None = None, cursor: str = "", limit: int = 100
    ) -> MemoryPage:
        """List keys."""
        self._reads(namespace)
        if not 1 <= limit <= LIST_MOST:
            text = f"limit: from 1 to {LIST_MOST} expected, got {limit}"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="limit")
        catalogue = self._parts.catalogue
        records = await catalogue.run(
            catalogue.listed,
            namespace,
            prefix=prefix,
            tags=check_tags(tags or []),
            after=cursor,
            now_ms=self._parts.clock.now_ms(),
            limit=limit + 1,
        )
        more = len(records) > limit
        heads = [public_head(record) for record in records[:limit]]
        return MemoryPage(heads=heads, cursor=heads[-1].key if more else "")

    async def history(self, *, namespace: str, key: str) -> list[MemoryHead]:
        """List versions."""
        config = self._reads(namespace, key)
        found: dict[str, MemoryRecord] = {}
        failure: CallError | None = None
        asked = self._parts.places.lasting(int(config.reach))
        for place in asked:
            try:
                kept = await place.ask("history", lambda tier: tier.history(namespace=namespace, key=key))
            except CallError as error:
                failure = error
            else:
                found.update({record.version: record for record in kept})
        pending = await self._parts.catalogue.run(self._parts.catalogue.pending, namespace, key)
        if pending is not None:
            found[pending.version] = pending
        if not found and failure is not None:
            raise failure
        most = self._parts.config.history + 1
        return [public_head(found[version]) for version in sorted(found, reverse=True)[:most]]

    async def search(
        self,
        *,
        text: str = "",
        vector: list[float] | None = None,
        namespaces: list[str] | None = None,
        tags: list[str] | None = None,
        content_types: list[str] | None = None,
        limit: int = 10,
    ) -> MemoryFound:
        """Find values."""
        caller = current_call()
        if not 1 <= limit <= SEARCH_MOST:
            raise CallError(
                CallErrorKind.INVALID_PARAMS, f"limit: from 1 to {SEARCH_MOST} expected, got {limit}", field="limit"
            )
        if not text.strip() and not vector:
            raise CallError(CallErrorKind.INVALID_PARAMS, "text: a text or a vector expected", field="text")
        if namespaces is None:
            namespaces = await self._readable(caller)
        for name in namespaces:
            self._parts.namespaces.check_read(name, caller, node=self._parts.node)
        shared = [name for name in namespaces if self._parts.namespaces.of(name).reach is Privacy.SHARED]
        question = Question(
            text=text[:QUERY_MOST],
            vector=packed(vector) if vector else b"",
            model=await self._parts.meaning.model() if vector else "",
            namespaces=namespaces,
            tags=check_tags(tags or []),
            content_types=content_types or [],
            limit=limit,
        )
        # A question goes no further than what it was asked about: only one about shared things alone leaves the site.
        reach = Privacy.SHARED if shared == namespaces else Privacy.LOCAL
        asked = shared if reach is Privacy.SHARED or caller.privacy is Privacy.SHARED else []
        return await self._parts.searching.find(question, asked, min(reach, caller.privacy))

    async def _readable(self, caller: CallInfo) -> list[str]:
        used = await self._parts.catalogue.run(self._parts.catalogue.usage)
        names = sorted({*used, *self._parts.namespaces.known})
        return [name for name in names if self._parts.namespaces.may_read(name, caller, node=self._parts.node)]

    async def stats(self) -> MemoryStats:
        """Return how everything is."""
        return await stats_of(self._parts, set(await self._readable(current_call())))

    async def put(
        self,
        *,
        namespace: str,
        key: str,
        value: bytes,
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
        text: str | None = None,
    ) -> MemoryWritten:
        """Store a value."""
        config = self._writes(namespace, key)
        draft = Draft(
            namespace=namespace,
            key=key,
            content_type=content_type,
            tags=tags or [],
            ttl_s=ttl_s,
            soft_ttl_s=soft_ttl_s,
            text=text,
        )
        return await self._parts.writing.put(draft, value, config)

    async def write(
        self,
        *,
        namespace: str,
        key: str,
        chunks: AsyncIterator[bytes],
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
    ) -> MemoryWritten:
        """Store a value that comes as a stream."""
        config = self._writes(namespace, key)
        draft = Draft(
            namespace=namespace,
            key=key,
            content_type=content_type,
            tags=tags or [],
            ttl_s=ttl_s,
            soft_ttl_s=soft_ttl_s,
        )
        return await self._parts.writing.stream(draft, chunks, config)

    async def delete(self, *, namespace: str, key: str) -> MemoryWritten:
        """Delete a key."""
        config = self._writes(namespace, key)
        writing = self._parts.writing
        return await writing.keep([await writing.prepare(Draft(namespace=namespace, key=key, deleted=True), config)])

    async def touch(
        self, *, namespace: str, key: str, ttl_s: float | None = None, soft_ttl_s: float | None = None
    ) -> MemoryWritten:
        """Give a value another time to live."""
        config = self._writes(namespace, key)
        found = await self._parts.reading.get(namespace, key, config)
        if found.record is None:
            raise CallError(CallErrorKind.FAILED, f"nothing stands under {key[:60]!r}", error="missing")
        return await self._parts.writing.touch(found.record, config, ttl_s=ttl_s, soft_ttl_s=soft_ttl_s)

    async def cas(
        self,
        *,
        namespace: str,
        key: str,
        value: bytes,
        etag: str,
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
    ) -> MemoryWritten:
        """Store a value on a condition."""
        config = self._writes(namespace, key)
        check_etag(etag)
        draft = Draft(
            namespace=namespace,
            key=key,
            content_type=content_type,
            tags=tags or [],
            ttl_s=ttl_s,
            soft_ttl_s=soft_ttl_s,
        )
        return await self._parts.writing.cas(draft, value, etag, config)

    async def batch(self, *, operations: list[MemoryOperation]) -> list[MemoryOutcome]:
        """Do several operations."""
        if len(operations) > BATCH_MOST:
            text = f"operations: at most {BATCH_MOST} expected, got {len(operations)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="operations")
        outcomes: list[MemoryOutcome | None] = [None] * len(operations)
        async with anyio.create_task_group() as tasks:  # writes that are made at once share a sync of the disk
            for number, operation in enumerate(operations):
                tasks.start_soon(self._one, outcomes, number, operation)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _one(self, outcomes: list[MemoryOutcome | None], number: int, operation: MemoryOperation) -> None:
        try:
            outcomes[number] = await self._operate(operation)
        except CallError as error:
            outcomes[number] = MemoryOutcome(error=f"{error.kind}: {error.message}")

    async def _operate(self, operation: MemoryOperation) -> MemoryOutcome:
        namespace, key, writing = operation.namespace, operation.key, self._parts.writing
        if operation.op == "get":
            return MemoryOutcome(entry=await self.get(namespace=namespace, key=key))
        if operation.op == "delete":
            return MemoryOutcome(written=await self.delete(namespace=namespace, key=key))
        ttl_s, soft_ttl_s = operation.ttl_s, operation.soft_ttl_s
        if operation.op == "touch":
            touched = await self.touch(namespace=namespace, key=key, ttl_s=ttl_s, soft_ttl_s=soft_ttl_s)
            return MemoryOutcome(written=touched)
        config = self._writes(namespace, key)
        draft = Draft(
            namespace=namespace,
            key=key,
            content_type=operation.content_type,
            tags=operation.tags,
            ttl_s=ttl_s,
            soft_ttl_s=soft_ttl_s,
        )
        if operation.op == "cas":
            check_etag(operation.etag)
            return MemoryOutcome(written=await writing.cas(draft, operation.value, operation.etag, config))
        return MemoryOutcome(written=await writing.put(draft, operation.value, config))

    async def invalidate(self, *, namespace: str, key: str = "", tag: str = "") -> int:
        """Forget hot copies."""
        self._writes(namespace, key or None)
        return await self._parts.changes.invalidate(namespace, key, tag)

    async def export(self, *, namespaces: list[str] | None = None) -> AsyncIterator[bytes]:
        """Stream an archive."""
        caller = current_call()
        names = await self._readable(caller) if namespaces is None else namespaces
        for name in names:
            self._parts.namespaces.check_read(name, caller, node=self._parts.node)
        wanted = set(names)
        async for chunk in self._parts.moving.export(lambda record: record.namespace in wanted):
            yield chunk

    async def import_(self, *, chunks: AsyncIterator[bytes]) -> MemoryImported:
        """Take an archive."""
        caller = current_call()
        may = self._parts.namespaces.check_write
        return await self._parts.moving.take(chunks, lambda name: may(name, caller, node=self._parts.node))
