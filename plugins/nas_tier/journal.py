"""The journal: every write is on this node's disk, synced, before anything else becomes of it.

It is an outbox stream. Writes that come while one sync is under way share the next. What was appended is noted in the
catalogue; if this process is killed in between, the next one notes it at its start.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import msgspec

from sparkd import (
    CallError,
    CallErrorKind,
    MemoryRecord,
    Outbox,
    OutboxReader,
    OutboxWriter,
    Privacy,
    Record,
    StorageError,
    Stored,
    reached,
)

from .catalogue import Applied, Catalogue
from .on_their_way import KEYS_MOST, OnTheirWay

SERVICE, STREAM, READER = "nas-tier", "writes", "tiers"
TOPIC = "memory.write"
BATCH, BATCH_BYTES = 128, 4 << 20
RECENT, RECENT_BYTES = 4096, 8 << 20
"""What was just written is poured from memory; a tier that is farther behind reads the disk."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MemoryRecord).decode


@dataclass(frozen=True, slots=True)
class Entry:
    """A write in the journal."""

    seq: int
    record: MemoryRecord | None
    """None for what cannot be read as one."""


@dataclass(slots=True)
class _Waiting:
    """A write that waits for its turn to be synced."""

    records: list[MemoryRecord]
    done: anyio.Event = field(default_factory=anyio.Event)
    seqs: list[int] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    error: CallError | None = None


class Journal:
    """This node's writes, in order."""

    def __init__(self, writer: OutboxWriter, reader: OutboxReader, catalogue: Catalogue, *, most_bytes: int) -> None:
        """Append by *writer*; refuse more than *most_bytes* that are on their way."""
        self._writer = writer
        self._reader = reader
        self._catalogue = catalogue
        self._most_bytes = most_bytes
        self._bytes = 0
        self._queue: list[_Waiting] = []
        self._recent: OrderedDict[int, MemoryRecord] = OrderedDict()
        self._recent_bytes = 0
        self._syncing = anyio.Lock()
        self.on_their_way = OnTheirWay()
        self.tail = reader.position
        self.wrote = anyio.Event()
        """Set by the next append; then a new one stands here."""

    @property
    def last_version(self) -> str:
        """The last version that was given out before, as far as a write was made with it."""
        mark = self._writer.mark("version")
        return "" if mark is None else mark.decode()

    @property
    def passed(self) -> int:
        """The number up to which every tier has everything."""
        return self._reader.position

    async def recover(self) -> int:
        """Note in the catalogue what was appended and not noted; return how much that was."""
        count = 0
        after = max(int(await self._catalogue.run(self._catalogue.get_meta, "noted") or 0), self._reader.position)
        while stored := await self._reader.read(max_records=BATCH, max_bytes=BATCH_BYTES, after=after):
            written = [(one.seq, record) for one in stored if (record := decoded(one)) is not None]
            await self._catalogue.run(self._catalogue.note_written, written)
            count, after = count + len(written), stored[-1].seq
        self.tail = max(await self._reader.tail(), after)
        self._bytes = await self._catalogue.run(self._catalogue.pending_bytes)
        self.on_their_way.begin(await self._catalogue.run(self._catalogue.pending_keys, KEYS_MOST))
        return count

    async def append(self, records: list[MemoryRecord]) -> tuple[list[int], list[Applied]]:
        """Store *records*; return their numbers, and what each is among the versions of its key, once they are synced.

        Raises CallError: `unavailable` if the disk refuses, or too much is on its way already.
        """
        size = sum(len(record.value or b"") for record in records)
        if self._bytes + size > self._most_bytes:
            text = f"{self._bytes} bytes of writes wait for a tier that does not answer, more than journal_bytes allows"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy="look at the tiers: sparkctl memory stats")
        waiting = _Waiting(records)
        self._queue.append(waiting)
        with anyio.CancelScope(shield=True):  # what is stored must be noted, whoever asked for it is gone or not
            async with self._syncing:
                if not waiting.done.is_set():
                    await self._sync()
        if waiting.error is not None:
            raise waiting.error
        return waiting.seqs, waiting.applied

    async def _sync(self) -> None:
        """Store all that wait, with one sync."""
        batch, self._queue = self._queue, []
        records = [record for waiting in batch for record in waiting.records]
        newest = max(record.version for record in records)
        rows = [Record(topic=TOPIC, body=_encode(record), privacy=Privacy.NODE) for record in records]
        try:
            seqs = await self._writer.append(rows, marks={"version": max(newest, self.last_version).encode()})
            reached("memory.after-journal")
            self.on_their_way.add(
                (record.namespace, record.key, seq) for seq, record in zip(seqs, records, strict=True)
            )
            applied = await self._catalogue.run(self._catalogue.note_written, list(zip(seqs, records, strict=True)))
        except StorageError as error:
            failure = CallError(
                CallErrorKind.UNAVAILABLE, f"the write cannot be kept: {error}", remedy="make room on the node's disk"
            )
            for waiting in batch:
                waiting.error = failure
                waiting.done.set()
            return
        self._bytes += sum(len(record.value or b"") for record in records)
        self._remember(seqs, records)
        self.tail = seqs[-1]
        for waiting in batch:
            count = len(waiting.records)
            waiting.seqs, seqs = seqs[:count], seqs[count:]
            waiting.applied, applied = applied[:count], applied[count:]
            waiting.done.set()
        self.wrote.set()
        self.wrote = anyio.Event()

    def _remember(self, seqs: list[int], records: list[MemoryRecord]) -> None:
        recent = self._recent
        for seq, record in zip(seqs, records, strict=True):
            recent[seq] = record
            self._recent_bytes += _weight(record)
        while len(recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, gone = self._recent.popitem(last=False)
        self._recent_bytes -= _weight(gone)

    async def read(self, after: int) -> list[Entry]:
        """Return writes after the number *after*; nothing if there are none."""
        if after >= self.tail:
            return []
        found, size = list[Entry](), 0
        for seq in range(after + 1, min(after + BATCH, self.tail) + 1):
            record = self._recent.get(seq)
            if record is None or size > BATCH_BYTES:
                break
            size += _weight(record)
            found.append(Entry(seq, record))
        if found:
            return found
        stored = await self._reader.read(max_records=BATCH, max_bytes=BATCH_BYTES, after=after)
        return [Entry(one.seq, decoded(one)) for one in stored]

    async def pass_to(self, seq: int) -> list[str]:
        """Note that every tier has what stands up to *seq*; return the blobs nobody waits for any more."""
        if seq <= self._reader.position:
            return []
        await self._reader.advance(seq)
        reached("memory.after-cursor")
        while self._recent and next(iter(self._recent)) <= seq:
            self._forget_oldest()
        blobs = await self._catalogue.run(self._catalogue.arrived, seq)
        if not self.on_their_way.passed(seq):
            async with self._syncing:  # a write that is noted meanwhile must not be missed
                self.on_their_way.begin(await self._catalogue.run(self._catalogue.pending_keys, KEYS_MOST))
        self._bytes = await self._catalogue.run(self._catalogue.pending_bytes)
        return blobs

    async def reject(self, seq: int, why: str) -> None:
        """Put a write that a tier never takes among the dead letters."""
        for stored in await self._reader.read(max_records=1, max_bytes=BATCH_BYTES, after=seq - 1):
            if stored.seq == seq:
                await self._reader.reject(stored, why)


def _weight(record: MemoryRecord) -> int:
    return len(record.value or b"") + len(record.text) + 500


def decoded(stored: Stored) -> MemoryRecord | None:
    """Return the write that *stored* is; None for what is none."""
    try:
        return _decode(stored.record.body)
    except (msgspec.DecodeError, RecursionError):
        return None


@asynccontextmanager
async def open_journal(outbox: Outbox, catalogue: Catalogue, *, most_bytes: int) -> AsyncIterator[Journal]:
    """Open the journal, with all that was written before."""
    async with outbox.writer(STREAM) as writer, outbox.reader(SERVICE, STREAM, name=READER) as reader:
        yield Journal(writer, reader, catalogue, most_bytes=most_bytes)
