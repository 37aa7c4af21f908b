"""Export and import of the memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from sparkd import CHUNK_BYTES, CallError, CallErrorKind, MemoryImported, MemoryRecord

from . import archive
from .blobs import Blobs
from .catalogue import Catalogue
from .clock import VersionClock, ms_of
from .namespaces import NamespaceConfig, check_key, check_tags
from .places import Places
from .spool import Spool
from .writing import Writing

PAGE = 200
BATCH, BATCH_BYTES = 64, 1 << 20


class Moving:
    """Gives everything out as an archive, and takes one."""

    def __init__(
        self,
        places: Places,
        *,
        node: str,
        catalogue: Catalogue,
        blobs: Blobs,
        spool: Spool,
        writing: Writing,
        clock: VersionClock,
    ) -> None:
        """Move what stands in *places*."""
        self._places = places
        self._node = node
        self._catalogue = catalogue
        self._blobs = blobs
        self._spool = spool
        self._writing = writing
        self._clock = clock

    async def export(self, wanted: Callable[[MemoryRecord], bool]) -> AsyncIterator[bytes]:
        """Stream the records that are *wanted*, tombstones too, and their values.

        Raises CallError if one is missing.
        """
        yield archive.MAGIC
        yield archive.frame("head", {"node": self._node, "at_ms": self._clock.now_ms()})
        count = size = 0
        after = ("", "")
        while heads := await self._catalogue.run(self._catalogue.heads, after, PAGE):
            after = (heads[-1].namespace, heads[-1].key)
            for head in heads:
                if not wanted(head) or head.expired(self._clock.now_ms()):
                    continue
                record = await self._whole(head)
                yield archive.frame("record", record)
                count += 1
                if record.is_blob:
                    async for chunk in self._blobs.read(record):
                        for begin in range(0, len(chunk), CHUNK_BYTES):
                            yield archive.frame("chunk", chunk[begin : begin + CHUNK_BYTES])
                size += record.size
        yield archive.frame("end", {"records": count, "bytes": size})

    async def _whole(self, head: MemoryRecord) -> MemoryRecord:
        """Return the record of *head* as the nearest tier has it that knows it, or a newer one."""
        if head.deleted:
            return head
        pending = await self._catalogue.run(self._catalogue.pending, head.namespace, head.key)
        if pending is not None and pending.version >= head.version:
            return pending
        failure: CallError | None = None
        for place in self._places.lasting(head.privacy):
            try:
                record = await place.ask("get", lambda tier: tier.get(namespace=head.namespace, key=head.key))
            except CallError as error:
                failure = error
                continue
            if record is not None and record.version >= head.version:
                return record
        if failure is not None:
            raise failure
        text = f"{head.namespace}/{head.key[:60]} is known, but no tier has it"
        raise CallError(CallErrorKind.FAILED, text, error="missing", remedy="sweep the tiers, or delete it")

    async def take(self, chunks: AsyncIterator[bytes], admit: Callable[[str], NamespaceConfig]) -> MemoryImported:
        """Take an archive: its records keep their versions.

        *admit* raises CallError for a namespace that may not be written in. Raises CallError for what is no archive.
        """
        took = _Took()
        batch: list[MemoryRecord] = []
        reader = archive.frames(chunks)
        kind, content = await anext(reader, ("end", msgspec.Raw(b"")))
        while kind != "end":
            if kind != "record":
                kind, content = await anext(reader)
                continue
            record = self._admitted(archive.record_of(content), admit)
            kind, content = await anext(reader)
            if record.is_blob:
                parts = _Parts(reader, kind, content)
                digest, size = await self._spool.take(parts.bytes())
                kind, content = parts.kind, parts.content
                with self._spool.holding(digest):
                    if (digest, size) != (record.digest, record.size):
                        raise archive.bad(f"holds a value that is not its digest: {record.key[:60]!r}")
                    await self._keep([record], took)
                continue
            batch.append(record)
            if len(batch) >= BATCH or sum(one.size for one in batch) > BATCH_BYTES:
                await self._keep(batch, took)
                batch = []
        await self._keep(batch, took)
        return MemoryImported(records=took.records, newer_here=took.older, bytes=took.bytes)

    def _admitted(self, record: MemoryRecord, admit: Callable[[str], NamespaceConfig]) -> MemoryRecord:
        check_key(record.key)
        config = admit(record.namespace)
        try:
            believed = self._clock.seen(record.version)
        except ValueError as error:
            raise archive.bad(f"holds a record without a version: {error}") from error
        if not believed:
            ahead_s = (ms_of(record.version) - self._clock.now_ms()) / 1000
            remedy = "set this machine's clock right, or wait"
            text = f"the archive holds a version that is {ahead_s:.0f} s ahead of this machine's clock"
            raise CallError(CallErrorKind.FAILED, text, error="future", remedy=remedy)
        # The stricter of what it was and what its namespace is here: an archive makes nothing public.
        return msgspec.structs.replace(
            record, privacy=min(record.privacy, int(config.reach)), tags=check_tags(record.tags)
        )

    async def _keep(self, batch: list[MemoryRecord], took: _Took) -> None:
        if not batch:
            return
        took.older += await self._writing.keep_as_they_are(batch)
        took.records += len(batch)
        took.bytes += sum(record.size for record in batch)


class _Took:
    """What an import has done so far."""

    records = 0
    older = 0
    bytes = 0


class _Parts:
    """The bytes of one value, and what came after them."""

    def __init__(self, reader: AsyncIterator[tuple[str, msgspec.Raw]], kind: str, content: msgspec.Raw) -> None:
        self._reader = reader
        self.kind, self.content = kind, content

    async def bytes(self) -> AsyncIterator[bytes]:
        while self.kind == "chunk":
            yield archive.bytes_of(self.content)
            self.kind, self.content = await anext(self._reader)
