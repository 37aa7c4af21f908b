"""A reader of a stream on the event loop: its cursor, its place, and the wait for what comes."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio
from anyio import to_thread

from sparkd.errors import StorageError
from sparkd.outbox.cursor import Cursor
from sparkd.outbox.dead import bury
from sparkd.outbox.files import Files, give_up_reserve, storage
from sparkd.outbox.scan import Scan
from sparkd.outbox.stream import stream_id
from sparkd.outbox.trim import Limits, trim
from sparkd.outbox.watch import Watch
from sparkd.service import Stored, StreamId

T = TypeVar("T")


class Reader:
    """Implements `sparkd.service.OutboxReader`."""

    def __init__(
        self, files: Files, stream_id: StreamId, name: str, *, cursor: Cursor, scan: Scan, watch: Watch, limits: Limits
    ) -> None:
        """Read as *name*; use `open_reader`."""
        self.stream_id = stream_id
        self._files, self._name, self._limits = files, name, limits
        self._cursor, self._scan, self._watch = cursor, scan, watch
        self._place = cursor.seq
        self._thread = anyio.CapacityLimiter(1)  # one open segment, one thread in it

    @property
    def position(self) -> int:
        """The last number passed."""
        return self._cursor.seq

    async def read(self, *, max_records: int, max_bytes: int, after: int | None = None) -> list[Stored]:
        """Return the next records; see `sparkd.service.OutboxReader.read`."""
        begin = self._place if after is None else after
        found, reached = await self._run(self._scan.read, begin, max_records, max_bytes)
        if after is None:
            self._place = found[-1].seq if found else max(reached, self._place)
        return found

    async def tail(self) -> int:
        """Return the last number of the stream."""
        return await self._run(self._scan.tail)

    async def wait(self, *, after: int | None = None) -> None:
        """Return when there is something new to read, or might be."""
        self._watch.file(self._files.tick)
        self._watch.folder(self._files.folder)
        begin = self._place if after is None else after
        if await self.tail() <= begin:
            await self._watch.changed()

    async def advance(self, seq: int) -> None:
        """Pass everything up to *seq*, durably."""
        if seq > self._cursor.seq:
            await self._run(self._advance, seq)
            self._place = max(self._place, seq)

    async def rewind(self) -> None:
        """Read again from just after the cursor."""
        self._place = self._cursor.seq

    async def reject(self, stored: Stored, reason: str) -> None:
        """Put a record among the dead letters."""
        await self._run(partial(bury, self._files, self._name, stored, reason, keep=self._limits.max_dead))

    def _advance(self, seq: int) -> None:
        with storage(self._files.cursors / self._name, "move the cursor"):
            self._cursor.advance(seq)
        segments = self._files.segments()
        if len(segments) > 1 and segments[1] - 1 <= seq:  # a whole segment has been passed
            with suppress(StorageError, OSError):  # the writer trims too
                trim(self._files, None)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await to_thread.run_sync(function, *arguments, limiter=self._thread)


def _open_cursor(files: Files, name: str) -> Cursor:
    try:
        return Cursor(files.cursors / name)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        give_up_reserve(files)
        return Cursor(files.cursors / name)


@asynccontextmanager
async def open_reader(
    files: Files, name: str, *, node_id: str, limits: Limits, clock_is_synchronised: Callable[[], bool]
) -> AsyncIterator[Reader]:
    """Open the stream in *files* for the reader *name*. Raises StorageError."""
    identity = await to_thread.run_sync(stream_id, files, node_id)
    with storage(files.cursors, "open the cursor"):
        cursor = await to_thread.run_sync(_open_cursor, files, name)
    scan = Scan(files, clock_is_synchronised)
    try:
        with Watch() as watch:
            yield Reader(files, identity, name, cursor=cursor, scan=scan, watch=watch, limits=limits)
    finally:
        scan.close()
        cursor.close()
