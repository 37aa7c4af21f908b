"""The outbox of a service that runs as another user: the same promises, kept by the core over calls.

An append returns once the core has it on disk. If the answer is lost, whether it was stored is not known, as with any
append that fails: a producer that tries again gives its records a key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from sparkd.errors import CallError, CallErrorKind, LocalMessageError, StorageError
from sparkd.outbox_interface import MAX_BATCH_BYTES, OpenedReader, OpenedWriter, OutboxHostApi, bytes_of
from sparkd.service import Record, Stored, StreamId

T = TypeVar("T")
UNDER_WAY = 4
"""Appends of one writer on their way to the core; more wait here. A batch may be 3 MiB, and the core has others."""
CLOSE_LIMIT_S = 2.0


class RemoteOutbox:
    """Implements `sparkd.service.Outbox` over the core."""

    def __init__(self, node_id: str, core: OutboxHostApi, patient: OutboxHostApi) -> None:
        """Ask *core*, or *patient* for what may take as long as it likes."""
        self.node_id = node_id
        self._core, self._patient = core, patient

    @asynccontextmanager
    async def writer(self, stream: str) -> AsyncIterator[RemoteWriter]:
        """Open this service's stream for writing. Raises StorageError, LocalMessageError for a malformed name."""
        opened = await _told(lambda: self._core.open_writer(stream=stream))
        try:
            yield RemoteWriter(self._core, stream, opened)
        finally:
            await _leave(lambda: self._core.close_writer(stream=stream))

    @asynccontextmanager
    async def reader(self, service: str, stream: str, *, name: str) -> AsyncIterator[RemoteReader]:
        """Open a stream for the reader *name*. Raises StorageError if there is none, or it may not be read."""
        opened = await _told(lambda: self._core.open_reader(service=service, stream=stream, name=name))
        try:
            yield RemoteReader(self._core, self._patient, opened)
        finally:
            await _leave(lambda: self._core.close_reader(reader=opened.reader))

    async def streams(self) -> list[tuple[str, str]]:
        """Return the streams of this node that this service may read."""
        return await _told(self._core.streams)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[list[tuple[str, str]]]]:
        """Iterate over the list of streams: as it is, then after each change."""
        changes = self._changes()
        try:
            yield changes
        finally:
            await changes.aclose()  # type: ignore[attr-defined] # made by an asynchronous generator

    async def _changes(self) -> AsyncIterator[list[tuple[str, str]]]:
        known: list[tuple[str, str]] | None = None
        while True:
            try:
                async for found in self._patient.watch():
                    if found != known:
                        known = found
                        yield found
            except CallError as error:
                if error.kind is not CallErrorKind.DEADLINE:  # nothing has changed for a day
                    raise


class RemoteWriter:
    """Implements `sparkd.service.OutboxWriter`."""

    def __init__(self, core: OutboxHostApi, stream: str, opened: OpenedWriter) -> None:
        """Append to *stream*, which the core has *opened*."""
        self._core, self._stream = core, stream
        self._stream_id, self._marks = opened.stream_id, dict(opened.marks)
        self._turn = anyio.CapacityLimiter(UNDER_WAY)

    @property
    def stream_id(self) -> StreamId:
        """Which stream it writes."""
        return self._stream_id

    async def append(self, records: Sequence[Record], *, marks: Mapping[str, bytes] | None = None) -> list[int]:
        """Store *records*; see `sparkd.service.OutboxWriter.append`.

        Raises LocalMessageError if they do not fit into one message to the core; nothing of them is stored then.
        """
        given = dict(marks or {})
        size = sum(map(bytes_of, records)) + sum(len(name) + len(value) for name, value in given.items())
        if size > MAX_BATCH_BYTES:
            raise LocalMessageError(
                f"a batch of {size} bytes; {MAX_BATCH_BYTES} at the most in a unit: append less at once"
            )
        async with self._turn:
            numbers = await _told(lambda: self._core.append(stream=self._stream, records=list(records), marks=given))
        self._marks |= given
        return numbers

    def mark(self, name: str) -> bytes | None:
        """Return the last value stored for the mark *name*."""
        return self._marks.get(name)


class RemoteReader:
    """Implements `sparkd.service.OutboxReader`."""

    def __init__(self, core: OutboxHostApi, patient: OutboxHostApi, opened: OpenedReader) -> None:
        """Read by what the core has *opened*."""
        self._core, self._patient = core, patient
        self._reader, self._stream_id, self._position = opened.reader, opened.stream_id, opened.position

    @property
    def stream_id(self) -> StreamId:
        """Which stream it reads."""
        return self._stream_id

    @property
    def position(self) -> int:
        """The last number passed."""
        return self._position

    async def read(self, *, max_records: int, max_bytes: int, after: int | None = None) -> list[Stored]:
        """Return the next records; see `sparkd.service.OutboxReader.read`. At most 3 MiB of them at once."""
        read = await _told(
            lambda: self._core.read(reader=self._reader, max_records=max_records, max_bytes=max_bytes, after=after)
        )
        self._position = max(self._position, read.position)
        return read.records

    async def tail(self) -> int:
        """Return the last number of the stream."""
        return await _told(lambda: self._core.tail(reader=self._reader))

    async def wait(self, *, after: int | None = None) -> None:
        """Return when there may be something new to read."""
        while True:
            try:
                await _told(lambda: self._patient.wait(reader=self._reader, after=after))
            except CallError as error:
                if error.kind is not CallErrorKind.DEADLINE:  # nothing has come for a day
                    raise
            else:
                return

    async def advance(self, seq: int) -> None:
        """Pass everything up to *seq*, durably."""
        if seq > self._position:
            self._position = await _told(lambda: self._core.advance(reader=self._reader, seq=seq))

    async def rewind(self) -> None:
        """Read again from just after the cursor."""
        await _told(lambda: self._core.rewind(reader=self._reader))

    async def reject(self, stored: Stored, reason: str) -> None:
        """Put a record among the dead letters."""
        await _told(lambda: self._core.reject(reader=self._reader, stored=stored, reason=reason))


async def _told(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what the core answers; its refusals are the errors that a disk's outbox would raise."""
    try:
        return await ask()
    except CallError as error:
        if error.kind is CallErrorKind.INVALID_PARAMS:
            raise LocalMessageError(error.message) from None
        if error.data.get("error") == StorageError.__name__ or error.kind is CallErrorKind.DENIED:
            raise StorageError(error.message) from None
        raise


async def _leave(close: Callable[[], Awaitable[None]]) -> None:
    """Let the core close what is open; if it cannot be told, it closes it when this service ends."""
    with anyio.move_on_after(CLOSE_LIMIT_S, shield=True):
        try:
            await close()
        except CallError:
            return
