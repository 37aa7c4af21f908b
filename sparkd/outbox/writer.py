"""The writer of a stream on the event loop. What queues while one commit runs goes into the next one, together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from sparkd.errors import StorageError
from sparkd.outbox.files import Files
from sparkd.outbox.stream import Stream, open_stream
from sparkd.outbox.trim import Limits
from sparkd.service import Record, StreamId

MAX_COMMIT = 1000
"""Records in one transaction; beyond it the gain is small and the wait grows."""


class _Append:
    """One caller's records, and what became of them."""

    __slots__ = ("error", "marks", "numbers", "records")

    def __init__(self, records: Sequence[Record], marks: Mapping[str, bytes]) -> None:
        self.records, self.marks = records, marks
        self.numbers: list[int] | None = None
        self.error: Exception | None = None


class Writer:
    """Implements `sparkd.service.OutboxWriter`."""

    def __init__(self, stream: Stream, stream_id: StreamId) -> None:
        """Append to *stream*; use `open_writer`."""
        self.stream_id = stream_id
        self._stream = stream
        self._pending: list[_Append] = []
        self._committing = anyio.Lock()
        self._thread = anyio.CapacityLimiter(1)
        self._closed = False

    async def append(self, records: Sequence[Record], *, marks: Mapping[str, bytes] | None = None) -> list[int]:
        """Store *records*; see `sparkd.service.OutboxWriter.append`."""
        mine = _Append(records, marks or {})
        self._pending.append(mine)
        try:
            async with self._committing:  # whoever comes first commits for all who wait
                if self._closed and mine in self._pending:
                    self._pending.remove(mine)
                    raise StorageError(f"{self.stream_id.service}/{self.stream_id.stream}: the writer is closed")
                while mine.numbers is None and mine.error is None:
                    with anyio.CancelScope(shield=True):  # others wait for what is taken here
                        await to_thread.run_sync(self._commit, self._take(), limiter=self._thread)
        except anyio.get_cancelled_exc_class():
            if mine in self._pending:
                self._pending.remove(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return mine.numbers or []

    async def close(self) -> None:
        """Return once no commit is under way, and none will be: later appends raise StorageError."""
        async with self._committing:
            self._closed = True

    def mark(self, name: str) -> bytes | None:
        """Return the last value stored for the mark *name*."""
        return self._stream.mark(name)

    def marks(self) -> dict[str, bytes]:
        """Return every mark."""
        return self._stream.marks()

    def _take(self) -> list[_Append]:
        count, taken = 0, 0
        for append in self._pending:
            if taken and count + len(append.records) > MAX_COMMIT:
                break
            count += len(append.records)
            taken += 1
        batch, self._pending = self._pending[:taken], self._pending[taken:]
        return batch

    def _commit(self, batch: list[_Append]) -> None:
        records = [record for append in batch for record in append.records]
        marks = {name: value for append in batch for name, value in append.marks.items()}
        try:
            numbers = self._stream.append(records, marks)
        except StorageError as error:
            for append in batch:
                append.error = error
            return
        except Exception as error:  # noqa: BLE001 - a record that cannot be stored is its appender's error, nobody else's
            for append in batch if len(batch) > 1 else ():
                self._commit([append])
            if len(batch) == 1:
                batch[0].error = error
            return
        begin = 0
        for append in batch:
            append.numbers = numbers[begin : begin + len(append.records)]
            begin += len(append.records)


@asynccontextmanager
async def open_writer(files: Files, limits: Limits, node_id: str) -> AsyncIterator[Writer]:
    """Open the stream in *files* for writing. Raises StorageError."""
    opened = open_stream(files, limits)
    stream = await to_thread.run_sync(opened.__enter__)
    writer = Writer(stream, StreamId(node_id, files.folder.parent.name, files.folder.name, stream.epoch))
    try:
        yield writer
    finally:
        with anyio.CancelScope(shield=True):
            await writer.close()  # a database that is closed while a thread writes to it takes the process along
            await to_thread.run_sync(opened.__exit__, None, None, None)
