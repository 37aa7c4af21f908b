"""How services are run: the launchers of the core, what they need of it, and the plugins kept in line with them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from sparkd.daemon import report
from sparkd.daemon.bus_limits import bus_limits
from sparkd.daemon.plugins import Plugins
from sparkd.host import Place
from sparkd.registry import ManifestCache, Registry
from sparkd.service import Isolation
from sparkd.states import State
from sparkd.supervisor import Launcher, Plan, Supervised
from sparkd.supervisor.processes import InlineLauncher, ProcessLauncher, Surroundings

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

PATH_LIMIT_S = 1.0
"""How long a path that a service needs may take to be looked at: a dead network mount never answers."""
PATH_LOOKS = 8
"""At once; a look that never ends keeps its place, and only what needs a path waits for it."""


def make_plugins(core: Core) -> Plugins:
    """Return the plugins of *core*, not read yet."""
    launchers = _launchers(core)
    looks = anyio.CapacityLimiter(PATH_LOOKS)

    def supervise(plan: Plan) -> Supervised:
        return Supervised(
            plan=plan,
            launcher=lambda plan: launchers.get(plan.isolation, launchers[Isolation.PROCESS]),
            missing=partial(_missing, core, looks),
            on_change=core.on_service_change,
        )

    cache = ManifestCache(core.places.cache / "manifests")
    return Plugins(
        config=core.config,
        registry=Registry(core.zygote, folders=core.places.plugins, cache=cache),
        supervisor=core.supervisor,
        supervise=supervise,
        on_synced=core.on_synced,
    )


def _launchers(core: Core) -> dict[Isolation, Launcher]:
    surroundings = Surroundings(
        place=partial(_place, core),
        entrance=core.entrance,
        reach=core.reach,
        gone=partial(_gone, core),
        on_line=core.logbook.child_line,
        log_level=core.levels.of,
    )
    return {
        Isolation.PROCESS: ProcessLauncher(core.zygote, surroundings),
        Isolation.INLINE: InlineLauncher(surroundings),
    }


def _gone(core: Core, service: str) -> None:
    core.router.drop(service)
    core.left_behind.set()


def _place(core: Core, token: str) -> Place:
    config = core.config
    return Place(
        node=config.node.name,
        node_id=core.node_id,
        site=config.node.site,
        runtime=str(core.places.runtime),
        state=str(core.places.state),
        token=token,
        bus=bus_limits(config.bus),
        outbox={
            "max_bytes": config.outbox.max_bytes,
            "max_age_s": config.outbox.max_age_s,
            "segment_bytes": config.outbox.segment_bytes,
        },
    )


async def _missing(core: Core, looks: anyio.CapacityLimiter, plan: Plan) -> str | None:
    """Return what *plan* needs and is not there, as a sentence."""
    running = {
        name for name, service in core.supervisor.services.items() if service.state in (State.RUNNING, State.DEGRADED)
    }
    for need in plan.manifest.needs:
        missing = report.missing_service(need, running) or await _missing_path(need, looks)
        if missing is not None:
            return missing
    return None


async def _missing_path(need: str, looks: anyio.CapacityLimiter) -> str | None:
    kind, _, path = need.partition(":")
    if kind != "path":
        return None
    with anyio.move_on_after(PATH_LIMIT_S):
        return await to_thread.run_sync(report.missing_path, path, limiter=looks, abandon_on_cancel=True)
    return f"needs {path}, which does not answer; see its mount"
