"""Writing: a version, the journal, the hot tier, and then as long as the home of the key takes, up to a limit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import anyio
import msgspec

from sparkd import (
    MAX_INLINE_BYTES,
    MAX_RECORD_VALUE,
    CallError,
    CallErrorKind,
    MemoryRecord,
    MemoryWritten,
    digest_of,
)

from .blobs import Blobs
from .catalogue import Catalogue, Usage
from .clock import VersionClock
from .figures import Counts, Figures
from .hot import Hot
from .journal import Journal
from .namespaces import NamespaceConfig, check_tags, expiry_ms
from .places import NO_ANSWER, Places
from .pouring import Pouring
from .reading import Reading
from .spool import Spool

TEXT_TYPES = ("text/", "application/json", "application/xml", "application/yaml")
TEXT_MOST = 32 * 1024
"""Characters of a text that are searched."""
TYPE_MOST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is to be written."""

    namespace: str
    key: str
    content_type: str = "application/octet-stream"
    tags: list[str] = field(default_factory=list)
    ttl_s: float | None = None
    soft_ttl_s: float | None = None
    text: str | None = None
    deleted: bool = False


class Writing:
    """Makes writes."""

    def __init__(
        self,
        clock: VersionClock,
        journal: Journal,
        pouring: Pouring,
        *,
        places: Places,
        catalogue: Catalogue,
        spool: Spool,
        blobs: Blobs,
        hot: Hot,
        reading: Reading,
        figures: Figures,
        counts: Counts,
        through_s: float,
        changed: Callable[[MemoryRecord], None],
    ) -> None:
        """Wait *through_s* for the home of a key; call *changed* with each write."""
        self._clock = clock
        self._journal = journal
        self._pouring = pouring
        self._places = places
        self._catalogue = catalogue
        self._spool = spool
        self._blobs = blobs
        self._hot = hot
        self._reading = reading
        self._figures = figures
        self._counts = counts
        self._through_s = through_s
        self._changed = changed
        self.closed = ""
        """Why nothing may be written now; nothing if it may."""

    async def put(self, draft: Draft, value: bytes, config: NamespaceConfig) -> MemoryWritten:
        """Write *value*, of any size that a call carries. Raises CallError."""
        if len(value) > MAX_INLINE_BYTES:
            text = f"value: {len(value)} bytes, at most {MAX_INLINE_BYTES} in one call; `write` takes a stream"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="value")
        if len(value) > MAX_RECORD_VALUE:
            return await self.stream(draft, _one(value), config)
        record = await self.prepare(draft, config, value=value)
        return await self.keep([record])

    async def stream(self, draft: Draft, chunks: AsyncIterator[bytes], config: NamespaceConfig) -> MemoryWritten:
        """Write a value that comes as a stream. Raises CallError."""
        await self.prepare(draft, config, value=b"")  # what cannot be written is refused before its bytes come
        digest, size = await self._spool.take(chunks)
        with self._spool.holding(digest):
            if size <= MAX_RECORD_VALUE:
                value = b"".join([chunk async for chunk in self._spool.read(digest)])
                return await self.keep([await self.prepare(draft, config, value=value)])
            return await self.keep([await self.prepare(draft, config, digest=digest, size=size)])

    async def prepare(
        self, draft: Draft, config: NamespaceConfig, *, value: bytes | None = None, digest: str = "", size: int = 0
    ) -> MemoryRecord:
        """Return a new version of a key. Raises CallError if it may not be written."""
        if self.closed:
            raise CallError(CallErrorKind.UNAVAILABLE, self.closed, remedy="wait; what is read is served meanwhile")
        size = size if value is None else len(value)
        known, usage = await self._catalogue.run(self._catalogue.before_write, draft.namespace, draft.key)
        if not draft.deleted:
            _check_quota(draft.namespace, config, size, known, usage)
        if len(draft.content_type) > TYPE_MOST or not draft.content_type.isprintable():
            text = f"content_type: at most {TYPE_MOST} printable characters expected"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="content_type")
        now_ms = self._clock.now_ms()
        return MemoryRecord(
            namespace=draft.namespace,
            key=draft.key,
            version=self._clock.next(above="" if known is None else known.version),
            deleted=draft.deleted,
            value=None if draft.deleted else value,
            digest="" if draft.deleted else digest or digest_of(value or b""),
            size=0 if draft.deleted else size,
            content_type=draft.content_type,
            tags=check_tags(draft.tags),
            written_ms=now_ms,
            soft_ms=expiry_ms("soft_ttl_s", draft.soft_ttl_s, config.soft_ttl_s, now_ms),
            hard_ms=0 if draft.deleted else expiry_ms("ttl_s", draft.ttl_s, config.ttl_s, now_ms),
            privacy=int(config.reach),
            text=_text_of(draft, value) if config.searchable else "",
        )

    async def keep(self, records: list[MemoryRecord]) -> MemoryWritten:
        """Write *records*; return what became of the last. Raises CallError if nothing of them is kept."""
        seqs, applied = await self._journal.append(records)
        return await self.settle(seqs[-1], records[-1], won=applied[-1] != "older", all_of=records)

    async def keep_as_they_are(self, records: list[MemoryRecord]) -> int:
        """Write *records* with the versions they have; return how many are older than what is here."""
        if self.closed:
            raise CallError(CallErrorKind.UNAVAILABLE, self.closed, remedy="wait")
        seqs, applied = await self._journal.append(records)
        newer = [record for record, found in zip(records, applied, strict=True) if found == "newer"]
        await self.settle(seqs[-1], records[-1], won=True, all_of=newer)
        return applied.count("older")

    async def settle(self, seq: int, record: MemoryRecord, *, won: bool, all_of: list[MemoryRecord]) -> MemoryWritten:
        """See that hot copies are new, and wait for the home of *record*."""
        for one in all_of:
            self._reading.forget_nothing(one.namespace, one.key)
            self._changed(one)
            self._counts.writes += 1
            self._figures.writes.inc()
        async with anyio.create_task_group() as tasks:
            for one in all_of:
                tasks.start_soon(self._hot.put, one)
            have, later = await self._pouring.wait(seq, record, limit_s=self._through_s)
        won = won and not self._pouring.lost(record)
        return MemoryWritten(etag=record.version, tiers=have, pending=later, won=won)

    async def touch(
        self, record: MemoryRecord, config: NamespaceConfig, *, ttl_s: float | None, soft_ttl_s: float | None
    ) -> MemoryWritten:
        """Write *record* again with other times to live, counted from now. Raises CallError."""
        draft = Draft(namespace=record.namespace, key=record.key, ttl_s=ttl_s, soft_ttl_s=soft_ttl_s)
        new = await self.prepare(draft, config, value=b"")
        return await self.keep(
            [msgspec.structs.replace(record, version=new.version, soft_ms=new.soft_ms, hard_ms=new.hard_ms)]
        )

    async def cas(self, draft: Draft, value: bytes, etag: str, config: NamespaceConfig) -> MemoryWritten:
        """Write *value* if the version at home is *etag*. Raises CallError: `conflict`, or `unavailable`."""
        home = self._places.home(int(config.reach))
        if home is None:
            text = f"namespace {draft.namespace!r} has no home: no tier may have what is {config.privacy}"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy="configure a tier for it")
        await self._pouring.flush(draft.namespace, draft.key, int(config.reach))
        digest, size = "", len(value)
        if size > MAX_RECORD_VALUE:
            digest, size = await self._spool.take(_one(value))
        with self._spool.holding(digest):
            inline = None if digest else value
            record = await self.prepare(draft, config, value=inline, digest=digest, size=size)
            if etag and record.version <= etag:
                record = msgspec.structs.replace(record, version=self._clock.next(above=etag))
            try:
                if record.is_blob:
                    await self._blobs.bring(home, record)
                made = await home.ask("cas", lambda tier: tier.cas(record=record, etag=etag))
            except CallError as error:
                if error.kind not in NO_ANSWER:
                    raise
                text = f"tier {home.name}, the home of {draft.namespace!r}, does not answer: {error.message}"
                remedy = "a condition is only judged at home: wait, or use `put`"
                raise CallError(CallErrorKind.UNAVAILABLE, text, remedy=remedy) from error
            if made.outcome in ("older", "floor"):
                await self._hot.drop(draft.namespace, [draft.key], int(config.reach))
                text = f"{draft.key[:60]!r} is not what it was: its version is {made.winner or 'none'}"
                raise CallError(CallErrorKind.FAILED, text, error="conflict", etag=made.winner)
            return await self.keep([record])


def _check_quota(namespace: str, config: NamespaceConfig, size: int, known: MemoryRecord | None, usage: Usage) -> None:
    had = known.size if known is not None and not known.deleted else 0
    if config.quota_bytes and usage.bytes - had + size > config.quota_bytes:
        text = f"namespace {namespace!r} holds {usage.bytes} of {config.quota_bytes} bytes; {size} more do not fit"
        remedy = f"delete something, or raise quota_bytes of {namespace!r}"
        raise CallError(CallErrorKind.FAILED, text, error="quota", remedy=remedy)


def _text_of(draft: Draft, value: bytes | None) -> str:
    if draft.deleted:
        return ""
    if draft.text is not None:
        return draft.text[:TEXT_MOST]
    if value is None or not draft.content_type.startswith(TEXT_TYPES):
        return ""
    return value.decode("utf-8", "ignore")[:TEXT_MOST]


async def _one(value: bytes) -> AsyncIterator[bytes]:
    yield value
