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
MAX_TOLD = 8
"""From how many places it is remembered which tail those who wait there were told of."""


class Reader:
    """Implements `sparkd.service.OutboxReader`. Several tasks may use it at once."""

    def __init__(
        self, files: Files, stream_id: StreamId, name: str, *, cursor: Cursor, scan: Scan, watch: Watch, limits: Limits
    ) -> None:
        """Read as *name*; use `open_reader`."""
        self.stream_id = stream_id
        self._files, self._name, self._limits = files, name, limits
        self._cursor, self._scan, self._watch = cursor, scan, watch
        self._place = cursor.seq
        self._told: dict[int, int] = {}
        self._changes = 0
        self._listening: anyio.Event | None = None
        self._thread = anyio.CapacityLimiter(1)  # one open segment, one thread in it

    @property
    def position(self) -> int:
        """The last number passed."""
        return self._cursor.seq

    @property
    def expired(self) -> int:
        """How many records were passed over because nobody wants them any more."""
        return self._scan.expired

    async def read(self, *, max_records: int, max_bytes: int, after: int | None = None) -> list[Stored]:
        """Return the next records; see `sparkd.service.OutboxReader.read`."""
        begin = self._place if after is None else after
        found, reached = await self._run(self._scan.read, begin, max_records, max_bytes)
        if after is None and self._place == begin:  # not rewound meanwhile
            self._place = found[-1].seq if found else max(reached, begin)
            if not found and reached > begin == self.position:
                await self.advance(reached)  # what has no record must not hold a segment
        return found

    async def tail(self) -> int:
        """Return the last number of the stream."""
        return await self._run(self._scan.tail)

    async def wait(self, *, after: int | None = None) -> None:
        """Return when there is something to read; and once each time that there are more numbers without a record."""
        begin = self._place if after is None else after
        while True:
            self._watch.folder(self._files.folder)  # before the tick, which may be yet to come
            self._watch.file(self._files.tick)
            seen = self._changes
            tail, found = await self._run(self._look, begin)
            if found or tail > self._told.get(begin, begin):
                if len(self._told) > MAX_TOLD:
                    self._told.clear()
                self._told[begin] = tail
                return
            await self._changed(seen)

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

    async def _changed(self, seen: int) -> None:
        """Return when something has changed since there were *seen* changes; one task listens for all."""
        while self._changes == seen:
            if self._listening is not None:
                await self._listening.wait()
                continue
            self._listening = heard = anyio.Event()
            try:
                await self._watch.changed()
                self._changes += 1
            finally:
                self._listening = None
                heard.set()

    def _look(self, after: int) -> tuple[int, bool]:
        """Return the stream's tail, and whether there is a record to read after *after*."""
        tail = self._scan.tail()
        return tail, tail > after and bool(self._scan.read(after, 1, 1)[0])

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
