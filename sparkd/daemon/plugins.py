"""The plugins of a node kept in line with config, entry points and drop-in folders.

Theory of operation: `sync` reads the registry, works out which services should run and how, and compares that with what
the supervisor keeps: what is new is added, what is gone is removed, what is planned differently is restarted, the rest
is not touched. It is called at start, after every change of a drop-in folder, and at a reload of the config.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import anyio

from sparkd.config import Config, PluginTable
from sparkd.core_interfaces import PluginStatus
from sparkd.registry import Failure, FailureKind, PluginSource, ProbeResult, Registry, SourceKind
from sparkd.service import Isolation, Manifest
from sparkd.states import State
from sparkd.supervisor import Plan, Supervised, Supervisor
from sparkd.supervisor.supervised import STOP_LIMIT_S

NO_TABLE = PluginTable()
"""What a drop-in without a table in the config runs by."""


@dataclass(eq=False, kw_only=True)
class Plugins:
    """Which plugins there are, and what came of each."""

    config: Config
    registry: Registry
    supervisor: Supervisor
    supervise: Callable[[Plan], Supervised]
    """Makes the supervised service of a plan."""
    on_syncing: Callable[[], None] = lambda: None
    on_synced: Callable[[], None] = lambda: None
    results: tuple[ProbeResult, ...] = ()
    synced: bool = False
    """Whether the plugins have been read at least once."""
    _syncing: anyio.Lock = field(default_factory=anyio.Lock)
    _manifests: tuple[Manifest, ...] = ()
    _present: dict[str, PluginSource] = field(default_factory=dict)
    """Every plugin that is installed or dropped in, wanted or not, by name."""

    async def sync(self, config: Config | None = None) -> dict[str, list[str]]:
        """Bring the services in line; return what was `added`, `changed` and `removed`, by service name."""
        async with self._syncing:
            self.on_syncing()
            if config is not None:
                self.config = config
            present: dict[str, PluginSource] = {}

            def is_wanted(source: PluginSource) -> bool:
                present[source.name] = source
                return self._is_wanted(source)

            self.results = await self.registry.read(is_wanted)
            self._present = present
            plans = {plan.name: plan for result in self.results for plan in self._plans(result)}
            self._manifests = tuple(self._in_config_order(plans))
            self.synced = True
            with anyio.CancelScope(shield=True):  # an impatient caller must not leave it half done
                done = await self._apply(plans)
            self.on_synced()
            return done

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """The manifests of all services, in config order; drop-ins without a table come last."""
        return self._manifests

    def providers(self, interface: str) -> list[str]:
        """Return the services that declare *interface*, in config order."""
        return [m.name for m in self._manifests if any(served.name == interface for served in m.serves)]

    def status(self) -> list[PluginStatus]:
        """Return each plugin, and what is wrong with it."""
        seen = {result.source.name for result in self.results}
        wanted = {name for name, table in self.config.plugins.items() if table.enabled}
        off = [_off(name, self._present.get(name)) for name in self.names - seen - wanted]
        found = [self._status(result) for result in self.results]
        return sorted([*found, *self.absent(), *off], key=lambda plugin: plugin.name)

    @property
    def names(self) -> set[str]:
        """The names of all plugins that are there, or that the config has a table for."""
        return self._present.keys() | self.config.plugins.keys()

    def absent(self) -> list[PluginStatus]:
        """Return the plugins that the config wants and that are not there."""
        seen = {result.source.name for result in self.results}
        wanted = {name: table for name, table in self.config.plugins.items() if table.enabled and name not in seen}
        return [_absent(name, table) for name, table in wanted.items()] if self.synced else []

    def failures(self) -> list[tuple[PluginSource, Failure]]:
        """Return the plugins that cannot be used, and why."""
        return [(result.source, result.failure) for result in self.results if result.failure is not None]

    def _is_wanted(self, source: PluginSource) -> bool:
        table = self.config.plugins.get(source.name)
        if table is None:
            return source.kind is SourceKind.DROP_IN
        return table.enabled

    def _plans(self, result: ProbeResult) -> list[Plan]:
        table = self.config.plugins.get(result.source.name, NO_TABLE)
        return [self._plan(manifest, result.source, table) for manifest in result.manifests]

    def _plan(self, manifest: Manifest, source: PluginSource, table: PluginTable) -> Plan:
        isolation = table.isolation or manifest.isolation
        trusted = source.kind is SourceKind.ENTRY_POINT and source.name in self.config.node.inline
        if isolation is Isolation.INLINE and not trusted:
            isolation = Isolation.PROCESS  # only installed plugins that the config names may run in the core
        if isolation is Isolation.PROCESS and trusted and table.isolation is None:
            isolation = Isolation.INLINE
        return Plan(
            manifest=manifest,
            source=source,
            table=table,
            isolation=isolation,
            start_limit_s=table.start_limit_s or manifest.start_limit_s,
            energy=table.energy or manifest.energy,
            critical=table.critical,
            watchdog_s=table.watchdog_s,
            needs=tuple(dict.fromkeys((*manifest.needs, *table.needs))),
            stop_without_needs=table.stop_without_needs,
        )

    def _in_config_order(self, plans: dict[str, Plan]) -> list[Manifest]:
        order = {name: number for number, name in enumerate(self.config.plugins)}
        ordered = sorted(plans.values(), key=lambda plan: (order.get(plan.source.name, len(order)), plan.name))
        return [plan.manifest for plan in ordered]

    async def _apply(self, plans: dict[str, Plan]) -> dict[str, list[str]]:
        held = self.supervisor.services
        removed = sorted(held.keys() - plans.keys())
        added = sorted(plans.keys() - held.keys())
        changed = sorted(name for name in plans.keys() & held.keys() if plans[name] != held[name].plan)
        overs = []
        for name in changed:
            held[name].replan(plans[name])
            overs.append(held[name].ask_restart())
        async with anyio.create_task_group() as tasks:
            for name in removed:
                tasks.start_soon(self.supervisor.remove, name)
            with anyio.move_on_after(STOP_LIMIT_S + 1):
                for over in overs:
                    await over.wait()
        for name in added:
            self.supervisor.add(self.supervise(plans[name]))
        return {"added": added, "changed": changed, "removed": removed}

    def _status(self, result: ProbeResult) -> PluginStatus:
        source, failure = result.source, result.failure
        status = PluginStatus(
            name=source.name,
            origin=_origin(source),
            enabled=True,
            services=[manifest.name for manifest in result.manifests],
        )
        if failure is None:
            return status
        return replace(status, problem=failure.message, remedy=failure.remedy, file=failure.file, line=failure.line)


def _origin(source: PluginSource | None) -> str:
    if source is None:
        return "config"
    return "installed" if source.kind is SourceKind.ENTRY_POINT else source.path


def _off(name: str, source: PluginSource | None) -> PluginStatus:
    return PluginStatus(name=name, origin=_origin(source), enabled=False, services=[])


def _absent(name: str, table: PluginTable) -> PluginStatus:
    return PluginStatus(
        name=name,
        origin="config",
        enabled=True,
        services=[],
        problem=f"there is no plugin called {name!r}",
        remedy=f"install or drop in the plugin, or remove [plugins.{name}] from {table.origin}",
    )


def failed_state(failure: Failure) -> State:
    """Return the state that a plugin which cannot be used is shown in."""
    if failure.kind is FailureKind.PENDING:
        return State.STARTING
    return State.WAITING if failure.kind in (FailureKind.MISSING, FailureKind.UNAVAILABLE) else State.BROKEN
