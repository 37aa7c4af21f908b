"""How services are run: the launchers of the core, what they need of it, and the plugins kept in line with them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from sparkd.daemon.bus_limits import bus_limits
from sparkd.daemon.needs import Needs
from sparkd.daemon.plugins import Plugins
from sparkd.host import Place
from sparkd.outbox import open_outbox
from sparkd.registry import ManifestCache, Registry
from sparkd.service import Isolation
from sparkd.supervisor import Launcher, Plan, Supervised
from sparkd.supervisor.processes import InlineLauncher, ProcessLauncher, Surroundings
from sparkd.supervisor.units import UnitLauncher, UnitSurroundings

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


def make_plugins(core: Core) -> Plugins:
    """Return the plugins of *core*, not read yet."""
    launchers = _launchers(core)

    def supervise(plan: Plan) -> Supervised:
        return Supervised(
            plan=plan,
            launcher=lambda plan: launchers[plan.isolation],
            missing=core.needs.missing,
            on_change=core.on_service_change,
        )

    cache = ManifestCache(core.places.cache / "manifests")
    return Plugins(
        config=core.config,
        registry=Registry(core.zygote, folders=core.places.plugins, cache=cache),
        supervisor=core.supervisor,
        supervise=supervise,
        on_syncing=core.last_good.on_syncing,
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
        group=core.budgets.open,
        limits_address_space=not core.budgets.limits_memory(),
    )
    return {
        Isolation.PROCESS: ProcessLauncher(core.zygote, surroundings),
        Isolation.INLINE: InlineLauncher(surroundings),
        Isolation.UNIT: UnitLauncher(surroundings, _units(core)),
    }


def _units(core: Core) -> UnitSurroundings:
    def desk(plan: Plan) -> AbstractAsyncContextManager[None]:
        place = _place(core, "")
        root = core.places.state / "outbox"
        outbox = open_outbox(root, node_id=core.node_id, service=plan.name, limits=place.limits())
        return core.unit_outbox.desk(outbox, plan.name, reads_others=plan.table.unit.read_outbox)

    return UnitSurroundings(priv=core.config.node.priv_socket, runtime=core.places.runtime, desk=desk)


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


class _World:
    """The node, as the needs of its services see it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def services(self) -> dict[str, Supervised]:
        """Return the services, by name."""
        return self._core.supervisor.services

    def providers(self, interface: str) -> list[str]:
        """Return the services that declare *interface*."""
        return self._core.plugins.providers(interface)

    async def synced(self) -> None:
        """Return when the plugins have been read again."""
        await self._core.synced.wait()

    def tell(self, what: str, problem: str) -> None:
        """Show what keeps changes of *what* from being noticed."""
        self._core.problems.pop(f"needs {what}", None)
        if problem:
            self._core.problems[f"needs {what}"] = problem


def make_needs(core: Core) -> Needs:
    """Return the needs of the services of *core*."""
    return Needs(_World(core))
