"""The core's life on its event loop: until it is told to stop, or cannot go on."""

from __future__ import annotations

import faulthandler
import logging
import signal
from functools import partial

import anyio

from sparkd.cgroups import Tree
from sparkd.config import Config, Places
from sparkd.daemon.budgets import Budgets
from sparkd.daemon.core import Core
from sparkd.daemon.exits import EX_FAILED, EX_TEMPFAIL
from sparkd.daemon.heap import keep_one_heap
from sparkd.daemon.last_good import Shelf
from sparkd.daemon.levels import Levels
from sparkd.daemon.logbook import Logbook
from sparkd.log import StructuredLog
from sparkd.logstore import LogStore
from sparkd.systemd import Notifier
from sparkd.zygote import Zygote


def serve(config: Config, places: Places, node_id: str, zygote: Zygote, shelf: Shelf, *, tree: Tree | None) -> int:
    """Run the core until SIGTERM or SIGINT; return the exit code."""
    keep_one_heap()
    faulthandler.enable()  # who sends SIGABRT, as systemd's watchdog does, gets told where each thread stood
    store = LogStore(places.state / "logs", max_bytes=config.logs.max_bytes)
    logbook = Logbook(store.put)
    logging.getLogger().addHandler(logbook)
    store.open()
    core = Core(
        config=config,
        places=places,
        node_id=node_id,
        zygote=zygote,
        logbook=logbook,
        log=StructuredLog("core"),
        notifier=Notifier(),
        log_store=store,
        levels=Levels(config.node.log_level),
        shelf=shelf,
        budgets=Budgets(tree),
    )
    store.on_problem = partial(_on_log_problem, core)
    try:
        return anyio.run(partial(_serve, core), backend_options={"use_uvloop": True})
    finally:
        store.close()


def _on_log_problem(core: Core, problem: str) -> None:
    """Show it in status; it cannot go to the log."""
    core.problems.pop("logs", None)
    if problem:
        core.problems["logs"] = problem


async def _serve(core: Core) -> int:
    code = 0
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        try:
            async with core.open(), anyio.create_task_group() as tasks:
                tasks.start_soon(core.start_services)
                tasks.start_soon(_watch_zygote, core, tasks.cancel_scope)
                async for number in signals:
                    if number != signal.SIGHUP:
                        break
                    tasks.start_soon(core.reload_by_signal)
                core.ordered = True
                core.notifier.stopping()
                core.log.info("stopping", signal=signal.Signals(number).name)
                tasks.cancel_scope.cancel()
        except* OSError as errors:
            core.log.error(  # noqa: TRY400 - the reason is the system's
                "cannot run", why="; ".join(str(error) for error in _leaves(errors))
            )
            code = EX_FAILED
    return EX_TEMPFAIL if core.zygote.lost.is_set() else code


def _leaves(error: BaseException) -> list[BaseException]:
    """Return the errors themselves: a task group wraps them, and its own words say nothing."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


async def _watch_zygote(core: Core, scope: anyio.CancelScope) -> None:
    await core.zygote.lost.wait()
    core.log.error("the zygote is gone, and all children with it; ending, to be started again")
    scope.cancel()
