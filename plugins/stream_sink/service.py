"""Run the sink, and answer what is in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from sparkd import CallError, CallErrorKind, Context, Store

from .settings import StreamSinkConfig
from .sink import Sink
from .store import count_rows, origin_positions

SOURCE = ("edge-ingest", "ingest")


class StoreDesk:
    """Answers the interface `store`."""

    def __init__(self, path: Path) -> None:
        """Answer from the database at *path*."""
        self._path = path

    async def counts(self) -> dict[str, int]:
        """Return the number of rows of each table; `doubled` counts those that came twice."""
        return await self._ask(count_rows)

    async def positions(self) -> dict[str, int]:
        """Return, for each `node/service/stream`, the last sequence number stored."""
        return await self._ask(origin_positions)

    async def _ask(self, question: Callable[[Path], dict[str, int]]) -> dict[str, int]:
        try:
            return await anyio.to_thread.run_sync(question, self._path)
        except sqlite3.Error as error:
            raise CallError(CallErrorKind.UNAVAILABLE, f"database: {error}", remedy=f"look at {self._path}") from error


async def run(ctx: Context[StreamSinkConfig], *, task_status: TaskStatus[None]) -> None:
    """Write rows until cancelled. A full disk and a damaged database are states, not failures."""
    sink = Sink(ctx)
    await sink.attempt(None)
    await ctx.serve(Store, StoreDesk(sink.path))
    task_status.started()
    await _until_there(ctx, *SOURCE)
    async with ctx.outbox.reader(*SOURCE, name="sink") as reader:
        while True:
            await sink.attempt(reader)


async def _until_there(ctx: Context[StreamSinkConfig], service: str, stream: str) -> None:
    """Return when the stream has been begun."""
    async with ctx.outbox.watch() as changes:
        async for streams in changes:
            if (service, stream) in streams:
                return
