"""Move records from the outbox into the database.

Where to go on is asked of the database, not of the outbox's cursor: the two can differ after a crash, and only the
database knows what is in it. Whatever the disk does, the answer is to close, wait, open and ask again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge

from sparkd import Context, OutboxReader, RemoteMessageError, StorageError, Stored

from .policy import Row, retry_delay_s, row_of
from .settings import StreamSinkConfig
from .store import DamagedError, Database, set_aside


class Figures:
    """What the sink counts, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything with *registry*."""
        self.rows = Counter("sparkd_sink_rows", "Rows written", ("table",), registry=registry)
        self.doubled = Counter("sparkd_sink_doubled", "Rows that were there already", registry=registry)
        self.dead = Counter("sparkd_sink_dead_letters", "Records that cannot be a row", registry=registry)
        self.backlog = Gauge("sparkd_sink_backlog_records", "Records not written yet", registry=registry)


def sort_out(read: Sequence[Stored]) -> tuple[list[Row], list[tuple[Stored, str]]]:
    """Return the rows that records become, and the records that cannot be one, with the reason."""
    rows, dead = list[Row](), list[tuple[Stored, str]]()
    for stored in read:
        try:
            rows.append(row_of(stored.record.body))
        except RemoteMessageError as error:
            dead.append((stored, str(error)))
    return rows, dead


class Sink:
    """Writes one stream into one database."""

    def __init__(self, ctx: Context[StreamSinkConfig]) -> None:
        """Write where the config of *ctx* says."""
        self.path = ctx.config.database(ctx.state_dir)
        self._ctx = ctx
        self._figures = Figures(ctx.metrics)
        self._failures = 0

    async def attempt(self, reader: OutboxReader | None) -> None:
        """Open the database and write what *reader* reads, until the disk gives trouble; wait, then return.

        Without a reader, only open it, once.
        """
        try:
            async with self._opened() as database:
                if reader is not None:
                    await self._drain(database, reader)
        except DamagedError as error:
            await self._begin_anew(error)
        except StorageError as error:
            await self._wait_for_disk(error)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Database]:
        database = await anyio.to_thread.run_sync(Database.open, self.path)
        try:
            yield database
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(database.close)

    async def _drain(self, database: Database, reader: OutboxReader) -> None:
        after, config = await self._resume(database, reader), self._ctx.config
        while True:
            tail = await reader.tail()  # asked for first: then an empty read says that nothing is left up to it
            read = await reader.read(
                max_records=config.max_batch_records, max_bytes=config.max_batch_bytes, after=after
            )
            self._figures.backlog.set(max(0, tail - after))
            through = read[-1].seq if read else tail
            if through > after:
                await self._write(database, reader, read, through=through)
                after = through
                self._recovered()
            else:
                await reader.wait(after=after)

    async def _resume(self, database: Database, reader: OutboxReader) -> int:
        """Return where to go on: the database's word; the cursor's, if the database has lost what it had."""
        written = await anyio.to_thread.run_sync(database.position, reader.stream_id)
        if written > reader.position:  # killed after the commit, before the cursor moved
            await reader.advance(written)
        elif written < reader.position:
            cursor = reader.position
            self._ctx.log.error(
                "database is behind the outbox: rows in between are not in it", has=written, cursor=cursor
            )
        return max(written, reader.position)

    async def _write(self, database: Database, reader: OutboxReader, read: list[Stored], *, through: int) -> None:
        rows, dead = await anyio.to_thread.run_sync(sort_out, read)
        for stored, reason in dead:
            await reader.reject(stored, reason)
            self._figures.dead.inc()
            self._ctx.log.warning("dead letter", seq=stored.seq, reason=reason)
        write = partial(database.write, rows, stream=reader.stream_id, through=through)
        with anyio.CancelScope(shield=True):  # a transaction is not left half-way
            doubled = await anyio.to_thread.run_sync(write)
        await reader.advance(through)
        self._figures.doubled.inc(doubled)
        for row in rows:
            self._figures.rows.labels(row.table.name).inc()

    async def _begin_anew(self, error: DamagedError) -> None:
        aside = await anyio.to_thread.run_sync(set_aside, self.path)
        self._ctx.log.error("database is damaged; moved aside, a fresh one is begun", aside=str(aside), exc_info=error)

    async def _wait_for_disk(self, error: StorageError) -> None:
        self._failures += 1
        config = self._ctx.config
        self._ctx.degraded(f"rows cannot be written: {error}", remedy=f"free space on the disk of {self.path}")
        if self._failures == 1:
            self._ctx.log.warning("rows cannot be written; they wait in the outbox", error=str(error))
        await anyio.sleep(retry_delay_s(self._failures, least_s=config.retry_least_s, most_s=config.retry_most_s))

    def _recovered(self) -> None:
        if self._failures:
            self._failures = 0
            self._ctx.recovered()
