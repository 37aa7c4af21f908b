"""Run the uplink: one shipper a stream, one ear on the link, one hand for commands."""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from sparkd import CommandRunner, Context, LinkChanged, Policy

from .commands import CommandDesk
from .figures import Figures
from .journal import open_journal
from .lanes import Road, StreamShipper
from .policy import Rules, wanted
from .reach import Reach
from .settings import CloudUplinkConfig
from .thrift import Thrift
from .turns import Turns


async def run(ctx: Context[CloudUplinkConfig], *, task_status: TaskStatus[None]) -> None:
    """Ship streams and run commands until cancelled. An unreachable target is a state, not a failure."""
    road = make_road(ctx)
    async with open_journal(ctx.state_dir / "commands.db") as journal, anyio.create_task_group() as tasks:
        desk = CommandDesk(ctx, journal, road.figures)
        await ctx.serve(CommandRunner, desk)
        await tasks.start(_listen, ctx, road.reach)
        if ctx.config.history_waits_in:
            await tasks.start(road.thrift.follow, ctx)
        tasks.start_soon(desk.work)
        tasks.start_soon(_ship_streams, road)
        task_status.started()


def make_road(ctx: Context[CloudUplinkConfig]) -> Road:
    """Return what all shippers of this service share."""
    config = ctx.config
    rules = Rules(
        topics=tuple(config.topics),
        same_node=config.target == ctx.node,
        same_site=bool(config.target_site) and config.target_site == ctx.site,
        max_record_bytes=config.max_record_bytes,
    )
    return Road(
        ctx=ctx,
        rules=rules,
        turns=Turns(config.in_flight),
        reach=Reach(ctx, target=config.target, least_s=config.retry_least_s, most_s=config.retry_most_s),
        thrift=Thrift(config.history_waits_in),
        figures=Figures(ctx.metrics),
    )


async def _listen(ctx: Context[CloudUplinkConfig], reach: Reach, *, task_status: TaskStatus[None]) -> None:
    """End the back-off whenever the link to the target comes up."""
    async with ctx.bus.subscribe(LinkChanged, policy=Policy.LATEST) as changes:
        task_status.started()
        async for received in changes:
            if received.event.peer == ctx.config.target and received.event.connected:
                reach.hurry()


async def _ship_streams(road: Road) -> None:
    """Keep one shipper for each stream that is wanted, as streams appear."""
    known: set[tuple[str, str]] = set()
    async with anyio.create_task_group() as shippers, road.ctx.outbox.watch() as changes:
        async for streams in changes:
            for service, stream in streams:
                if (service, stream) not in known and wanted(service, stream, road.ctx.config.streams):
                    known.add((service, stream))
                    shippers.start_soon(_ship, road, service, stream)


async def _ship(road: Road, service: str, stream: str) -> None:
    name = f"uplink-{road.ctx.config.target}"
    async with road.ctx.outbox.reader(service, stream, name=name) as reader:
        await StreamShipper(road, reader).run()
