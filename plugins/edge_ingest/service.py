"""Run the receiving side: serve `ingest` and `commands`, and deliver commands."""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from sparkd import Commands, Context, Ingest

from .commands import CommandOffice
from .ingest import IngestDesk
from .journal import open_journal
from .settings import EdgeIngestConfig


async def run(ctx: Context[EdgeIngestConfig], *, task_status: TaskStatus[None]) -> None:
    """Take records and deliver commands until cancelled."""
    async with open_journal(ctx.state_dir / "commands.db") as journal, ctx.outbox.writer("ingest") as writer:
        office = CommandOffice(ctx, journal)
        desk = IngestDesk(ctx, writer, office)
        await ctx.serve(Ingest, desk)
        await ctx.serve(Commands, office)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(office.deliver)
                task_status.started()
        finally:
            with anyio.CancelScope(shield=True):
                await desk.close()
