"""`outbox-host`: the core writes the streams of services that run as another user, in their name only.

Theory of operation. While a unit runs it has a `Desk` here, opened by its launcher: the streams it writes and the
readers it has. Whose desk is meant is told by the connection a call came over. All that is open is closed when the
instance ends, so the next one finds nothing held. The bounds are per desk: a unit is not trusted.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio

from sparkd.calls import current_call
from sparkd.errors import CallError, CallErrorKind, LocalMessageError, StorageError
from sparkd.outbox import DiskOutbox
from sparkd.outbox.reader import Reader
from sparkd.outbox.writer import Writer
from sparkd.outbox_interface import MAX_BATCH_BYTES, OpenedReader, OpenedWriter, ReadRecords, bytes_of
from sparkd.service import Record, Stored

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")

MAX_OPEN = 32
"""Streams written, and as many readers, of one unit."""
MAX_APPENDS = 16
"""Under way at once for one unit; its own side sends four for each stream."""
MAX_RECORDS = 10_000


@dataclass(eq=False)
class Held(Generic[T]):
    """Something open, closed only when nobody uses it: a database must not be closed beneath a thread that reads it."""

    what: T
    stack: AsyncExitStack
    users: int = 0
    idle: anyio.Event = field(default_factory=anyio.Event)

    @contextmanager
    def used(self) -> Iterator[T]:
        """Use it; an outbox's errors become answers."""
        self.users += 1
        try:
            with _plainly():
                yield self.what
        finally:
            self.users -= 1
            self.idle.set()
            self.idle = anyio.Event()

    async def close(self) -> None:
        """Close it once nobody uses it."""
        while self.users:
            await self.idle.wait()
        await self.stack.aclose()


@dataclass(eq=False)
class Desk:
    """What one running unit has open."""

    service: str
    outbox: DiskOutbox
    reads_others: bool
    closed: bool = False
    writers: dict[str, Held[Writer]] = field(default_factory=dict)
    readers: dict[int, Held[Reader]] = field(default_factory=dict)
    appends: int = 0
    opening: anyio.Lock = field(default_factory=anyio.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def close(self) -> None:
        """Close everything."""
        self.closed = True
        async with self.opening:
            held: list[Held[Any]] = [*self.writers.values(), *self.readers.values()]
            self.writers.clear()
            self.readers.clear()
        for one in held:
            await one.close()

    def check_open(self, held: int) -> None:
        """Raise CallError if nothing more may be opened."""
        if self.closed:
            raise CallError(CallErrorKind.UNAVAILABLE, "this service is ending")
        if held >= MAX_OPEN:
            raise CallError(CallErrorKind.UNAVAILABLE, f"{MAX_OPEN} are open already", remedy="close some first")


class UnitOutbox:
    """Answers `outbox-host`."""

    def __init__(self) -> None:
        """Begin without desks: nobody is answered."""
        self._desks: dict[str, Desk] = {}

    @asynccontextmanager
    async def desk(self, outbox: DiskOutbox, service: str, *, reads_others: bool) -> AsyncIterator[None]:
        """Serve the unit of *service* while the block runs."""
        desk = self._desks[service] = Desk(service, outbox, reads_others)
        try:
            yield
        finally:
            del self._desks[service]
            with anyio.CancelScope(shield=True):
                await desk.close()

    async def open_writer(self, *, stream: str) -> OpenedWriter:
        """Open a stream of the caller's; once more if it is open already, as after a close that was lost."""
        desk = self._desk()
        with _plainly():
            async with desk.opening:
                if stream not in desk.writers:
                    desk.check_open(len(desk.writers))
                    stack = AsyncExitStack()
                    opened = await stack.enter_async_context(desk.outbox.writer(stream))
                    desk.writers[stream] = Held(opened, stack)
                writer = desk.writers[stream].what
                return OpenedWriter(stream_id=writer.stream_id, marks=writer.marks())

    async def append(self, *, stream: str, records: list[Record], marks: dict[str, bytes]) -> list[int]:
        """Store a batch."""
        desk = self._desk()
        size = sum(map(bytes_of, records)) + sum(map(len, marks.values()))
        if size > 2 * MAX_BATCH_BYTES or len(records) > MAX_RECORDS:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"a batch of {len(records)} records, {size} bytes", field="")
        if desk.appends >= MAX_APPENDS:
            raise CallError(CallErrorKind.UNAVAILABLE, f"{MAX_APPENDS} appends are under way", remedy="await them")
        writer = _held(desk.writers, stream)
        desk.appends += 1
        try:
            with writer.used() as opened:
                return await opened.append(records, marks=marks)
        finally:
            desk.appends -= 1

    async def close_writer(self, *, stream: str) -> None:
        """Close a stream."""
        desk = self._desk()
        async with desk.opening:
            held = desk.writers.pop(stream, None)
            if held is not None:
                await held.close()

    async def open_reader(self, *, service: str, stream: str, name: str) -> OpenedReader:
        """Open a stream for reading."""
        desk = self._desk()
        if service != desk.service and not desk.reads_others:
            rule = f"read_outbox = true in the table unit of its plugin lets it read streams of {service!r}"
            raise CallError(CallErrorKind.DENIED, f"{desk.service!r} reads its own streams only: {rule}", rule=rule)
        with _plainly():
            async with desk.opening:
                desk.check_open(len(desk.readers))
                stack = AsyncExitStack()
                reader = await stack.enter_async_context(desk.outbox.reader(service, stream, name=name))
                number = next(desk.numbers)
                desk.readers[number] = Held(reader, stack)
        return OpenedReader(reader=number, stream_id=reader.stream_id, position=reader.position)

    async def read(self, *, reader: int, max_records: int, max_bytes: int, after: int | None = None) -> ReadRecords:
        """Return the next records, as many as fit into a message."""
        room = min(max_bytes, MAX_BATCH_BYTES)
        most = max(min(max_records, MAX_RECORDS, room // 300), 1)  # what else there is to a record takes room too
        with _held(self._desk().readers, reader).used() as held:
            found = await held.read(max_records=most, max_bytes=room // 2, after=after)
            return ReadRecords(records=found, position=held.position)

    async def tail(self, *, reader: int) -> int:
        """Return the stream's last number."""
        with _held(self._desk().readers, reader).used() as held:
            return await held.tail()

    async def wait(self, *, reader: int, after: int | None = None) -> None:
        """Return when there may be something new to read."""
        with _held(self._desk().readers, reader).used() as held:
            await held.wait(after=after)

    async def advance(self, *, reader: int, seq: int) -> int:
        """Pass everything up to *seq*."""
        with _held(self._desk().readers, reader).used() as held:
            await held.advance(seq)
            return held.position

    async def rewind(self, *, reader: int) -> None:
        """Read again from just after the cursor."""
        with _held(self._desk().readers, reader).used() as held:
            await held.rewind()

    async def reject(self, *, reader: int, stored: Stored, reason: str) -> None:
        """Put a record among the dead letters."""
        with _held(self._desk().readers, reader).used() as held:
            await held.reject(stored, reason)

    async def close_reader(self, *, reader: int) -> None:
        """Close a reader."""
        desk = self._desk()
        async with desk.opening:
            held = desk.readers.pop(reader, None)
            if held is not None:
                await held.close()

    async def streams(self) -> list[tuple[str, str]]:
        """Return the streams that the caller may read."""
        desk = self._desk()
        return _readable(desk, await desk.outbox.streams())

    async def watch(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Stream the list of streams."""
        desk = self._desk()
        async with desk.outbox.watch() as changes:
            async for found in changes:
                yield _readable(desk, found)

    def _desk(self) -> Desk:
        desk = self._desks.get(current_call().caller)
        if desk is None:
            rule = "only a unit's host asks the core; others write their streams themselves"
            raise CallError(CallErrorKind.DENIED, f"{current_call().caller!r} has no desk here", rule=rule)
        return desk


def _readable(desk: Desk, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in found if desk.reads_others or one[0] == desk.service]


def _held(held: Mapping[K, V], key: K) -> V:
    if key not in held:
        raise CallError(CallErrorKind.INVALID_PARAMS, f"{key!r} is not open", field="")
    return held[key]


@contextmanager
def _plainly() -> Iterator[None]:
    """Answer what an outbox raises as what it is, so that the other side can raise it again."""
    try:
        yield
    except StorageError as error:
        raise CallError(CallErrorKind.FAILED, str(error), error=StorageError.__name__) from None
    except LocalMessageError as error:
        raise CallError(CallErrorKind.INVALID_PARAMS, str(error), field="") from None
