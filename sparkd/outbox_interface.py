"""The outbox of a service that cannot write the node's disk itself, as calls to the core. Values layer.

Whose streams are written is decided by the connection, never by a parameter. An append is answered when it is on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from sparkd.interfaces import interface, reads
from sparkd.service import Record, Stored, StreamId

MAX_BATCH_BYTES = 3 << 20
"""Of the records and marks in one append, or of what one read returns: they travel in one message."""
RECORD_EXTRA_BYTES = 256
"""Counted for each record besides its body, for what else there is to it."""


def bytes_of(record: Record) -> int:
    """Return what *record* counts for in a batch."""
    return len(record.body) + len(record.topic) + len(record.key or "") + RECORD_EXTRA_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedWriter:
    """A stream that is open for writing, with the last value of each mark."""

    stream_id: StreamId
    marks: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedReader:
    """A stream that is open for reading, by the number that the reader is called by from now on."""

    reader: int
    stream_id: StreamId
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRecords:
    """What was read, and how far the reader has passed: records that nobody wants any more are passed by themselves."""

    records: list[Stored]
    position: int


@interface("outbox-host")
class OutboxHostApi(Protocol):
    """What a unit's host asks of the core's outbox. Open to the hosts of units only."""

    async def open_writer(self, *, stream: str) -> OpenedWriter:
        """Open the calling service's stream for writing; the core keeps it open until the service ends."""
        ...

    async def append(self, *, stream: str, records: list[Record], marks: dict[str, bytes]) -> list[int]:
        """Store a batch and its marks in one transaction; return the numbers once it is on disk."""
        ...

    async def close_writer(self, *, stream: str) -> None:
        """Close a stream."""
        ...

    async def open_reader(self, *, service: str, stream: str, name: str) -> OpenedReader:
        """Open a stream for the reader *name*."""
        ...

    async def read(self, *, reader: int, max_records: int, max_bytes: int, after: int | None = None) -> ReadRecords:
        """Return the next records."""
        ...

    @reads
    async def tail(self, *, reader: int) -> int:
        """Return the stream's last number."""
        ...

    @reads
    async def wait(self, *, reader: int, after: int | None = None) -> None:
        """Return when there may be something new to read."""
        ...

    async def advance(self, *, reader: int, seq: int) -> int:
        """Pass everything up to *seq*, durably; return the position."""
        ...

    async def rewind(self, *, reader: int) -> None:
        """Read again from just after the cursor."""
        ...

    async def reject(self, *, reader: int, stored: Stored, reason: str) -> None:
        """Put a record among the dead letters."""
        ...

    async def close_reader(self, *, reader: int) -> None:
        """Close a reader; its cursor stays."""
        ...

    @reads
    async def streams(self) -> list[tuple[str, str]]:
        """Return the (service, stream) pairs that the calling service may read."""
        ...

    @reads
    def watch(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Stream what `streams` returns: as it is, then after each change."""
        ...
