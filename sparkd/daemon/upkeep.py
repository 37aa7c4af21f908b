"""What the core does all the time, besides answering: each a task that outlives its own failures.

Theory of operation: a failure of one of these tasks would end the daemon, with every service. So each runs beneath
`start`, which tells the log of a failure, waits, and begins the work again from its first line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus

from sparkd.events import NodeHealth, PowerMode, event_type
from sparkd.registry import DropInWatch
from sparkd.tunnel import TunnelChanged

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

AGAIN_S = 5.0
"""From a failure of a task to its next beginning."""
RETRY_FAILED_S = 300.0
PLATFORM_STATES = frozenset(event_type(state).topic for state in (NodeHealth, PowerMode, TunnelChanged))
"""State topics kept whatever plugins run here: other nodes tell of themselves, too."""

Work = Callable[["Core", Callable[[], None]], Awaitable[None]]
"""A task of the core, which calls the function it is given once what it does has begun."""


async def start(core: Core, tasks: TaskGroup, work: Work) -> None:
    """Run *work* in *tasks* for ever; return once it has begun, or has failed for the first time."""
    await tasks.start(_go_on, core, work)


async def _go_on(core: Core, work: Work, *, task_status: TaskStatus[None]) -> None:
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True
            task_status.started()

    while True:
        try:
            await work(core, begin)
        except Exception as error:
            core.log.error("core task failed, beginning again", exc_info=error, task=work.__name__)  # noqa: TRY400 - our own log
        begin()
        await anyio.sleep(AGAIN_S)


async def keep_states(core: Core, begun: Callable[[], None]) -> None:
    """Keep the last values of state topics: those of the platform and those that manifests declare."""
    while True:
        topics = _state_topics(core)
        async with core.bus.subscribe_messages(*topics) as messages:
            begun()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_other_states, core, topics, tasks.cancel_scope)
                async for received in messages:
                    core.retained.keep(received.event)


async def _until_other_states(core: Core, topics: tuple[str, ...], scope: anyio.CancelScope) -> None:
    while _state_topics(core) == topics:
        await core.synced.wait()
    scope.cancel()


def _state_topics(core: Core) -> tuple[str, ...]:
    declared = {topic for manifest in core.plugins.manifests for topic in manifest.states}
    return tuple(sorted(declared | PLATFORM_STATES))


async def follow_drop_ins(core: Core, begun: Callable[[], None]) -> None:
    """Take over what changes in the drop-in folders."""
    async with DropInWatch(core.places.plugins) as watch:
        if core.ready:  # begun again: something may have changed meanwhile
            await core.sync()
        begun()
        _tell(core, watch.problem)
        async for changes in watch:
            done = await core.sync()
            core.log.info("drop-ins changed", paths=len(changes.added | changes.changed | changes.removed), **done)
            _tell(core, watch.problem)


def _tell(core: Core, problem: str) -> None:
    core.problems.pop("drop-ins", None)
    if problem:
        core.problems["drop-ins"] = problem


async def sync_late(core: Core, begun: Callable[[], None]) -> None:
    """Take over what slow plugins offer once they are read: nobody waits for them."""
    begun()
    while True:
        await core.plugins.registry.late()
        await core.sync()


async def retry_failed(core: Core, begun: Callable[[], None]) -> None:
    """Read plugins that cannot be used again, now and then: what they lack may have come."""
    begun()
    while True:
        await anyio.sleep(RETRY_FAILED_S)
        if core.plugins.failures():
            await core.sync()


async def follow_needs(core: Core, begun: Callable[[], None]) -> None:
    """Let services look again when what they need may have come or gone."""
    begun()
    await core.needs.follow()


async def watch_changes(core: Core, begun: Callable[[], None]) -> None:
    """Take a change back that makes a critical service fail."""
    begun()
    await core.last_good.watch()
