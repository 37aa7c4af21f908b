"""The core: every part of the daemon, wired together, and the orders to it.

Theory of operation. `run` opens the parts from the inside out (zygote, bus, calls, socket, link, metrics, supervisor)
and leaves them in reverse, so services stop first, while everything they need still runs. Each part is told about the
others by callbacks made here; none knows this class but the answers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from sparkd.bus import Broker, BusClient, QueueWatch, Retained
from sparkd.calls import CallRouter, Guests, Terms, open_to_hosts, stub
from sparkd.config import (
    Config,
    Places,
    changed_plugins,
    find_config,
    load_config,
    needs_restart,
    secret_keys,
    show,
    take_over,
)
from sparkd.core_interfaces import (
    HostApi,
    NodeStatus,
    ServiceStatus,
)
from sparkd.daemon import answers, bus_limits, doors, figures, report, upkeep, watchdog
from sparkd.daemon.auditing import Auditor
from sparkd.daemon.blocks import BlockedLoops, name_core_blocks, of_core
from sparkd.daemon.budgets import Budgets
from sparkd.daemon.gate import Gate
from sparkd.daemon.last_good import LastGood, Shelf
from sparkd.daemon.launching import make_needs, make_plugins
from sparkd.daemon.levels import Levels
from sparkd.daemon.linking import make_link
from sparkd.daemon.logbook import Logbook
from sparkd.daemon.needs import Needs
from sparkd.daemon.plugins import Plugins, failed_state
from sparkd.daemon.recording import Recording, record
from sparkd.daemon.shedding import Shedding, bring_back
from sparkd.daemon.unit_outbox import UnitOutbox
from sparkd.daemon.version import VERSION
from sparkd.errors import CallError, ConfigError
from sparkd.events import ServiceChanged
from sparkd.link import Link
from sparkd.log import OncePer, StructuredLog
from sparkd.logstore import LogStore
from sparkd.needs import NeedKind
from sparkd.rpc import RpcCounts
from sparkd.states import State
from sparkd.supervisor import Supervised, Supervisor
from sparkd.supervisor.processes import Entrance
from sparkd.systemd import Notifier
from sparkd.zygote import Zygote

T = TypeVar("T")

ASK_LIMIT_S = 2.0
RUNNING = (State.RUNNING, State.DEGRADED)
RESTING = (State.STOPPED, State.DISABLED, State.SHED)
PAUSING = (State.BACKOFF, State.BROKEN, State.WAITING)
ON_THE_WAY = (State.STARTING, State.STOPPING)


@dataclass(eq=False, kw_only=True)
class Core:
    """One daemon."""

    config: Config
    places: Places
    node_id: str
    zygote: Zygote
    logbook: Logbook
    log: StructuredLog
    notifier: Notifier
    log_store: LogStore
    levels: Levels
    shelf: Shelf
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    retained: Retained = field(default_factory=Retained)
    entrance: Entrance = field(default_factory=Entrance)
    guests: Guests = field(init=False)
    unit_outbox: UnitOutbox = field(default_factory=UnitOutbox)
    supervisor: Supervisor = field(default_factory=Supervisor)
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong and is not a service's or a link's, by what it is about."""
    budgets: Budgets = field(default_factory=lambda: Budgets(None))
    blocks: BlockedLoops = field(default_factory=BlockedLoops)
    complaints: OncePer = field(default_factory=OncePer)
    """Keeps a stranger or a bad plugin from flooding the log."""
    broker: Broker = field(init=False)
    queues: QueueWatch = field(init=False)
    left_behind: anyio.Event = field(default_factory=anyio.Event)
    """Set when a service has ended, and may have left shared memory behind."""
    bus: BusClient = field(init=False)
    router: CallRouter = field(init=False)
    link: Link = field(init=False)
    gate: Gate = field(init=False)
    auditor: Auditor = field(init=False)
    plugins: Plugins = field(init=False)
    needs: Needs = field(init=False)
    last_good: LastGood = field(init=False)
    recording: Recording = field(init=False)
    shedding: Shedding = field(init=False)
    ordered: bool = False
    """Whether the daemon ends because it was told to."""
    rpc_counts: RpcCounts = field(init=False)
    _tasks: TaskGroup = field(init=False)
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _reloading: anyio.Lock = field(default_factory=anyio.Lock)
    synced: anyio.Event = field(default_factory=anyio.Event)
    """Set, and replaced, whenever the plugins have been read."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Core]:
        """Run all parts until the context is left. Raises OSError if a socket cannot be made."""
        config, places = self.config, self.places
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.zygote.attach())
            self.auditor = Auditor(self)
            await stack.enter_async_context(self.auditor.trail.open())
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self.broker = Broker(
                places.runtime,
                high_water=config.bus.high_water_messages,
                reader_gids=report.group_ids(config.bus.readers_group),
                on_refused=self.on_stranger,
            )
            self.guests = doors.make_guests(self)
            await stack.enter_async_context(self.broker.open())
            await bus_limits.make_shared(self)
            self.queues = bus_limits.queue_watch(self)
            self.bus = BusClient(places.runtime, node=config.node.name, service="core")
            await stack.enter_async_context(self.bus.open())
            self.gate = Gate(self)
            self.recording = Recording(self)
            self.shedding = Shedding(self)
            self.router = doors.make_router(self, self._tasks)
            self.needs = make_needs(self)
            self.last_good = LastGood(self, self.shelf)
            self.plugins = make_plugins(self)
            self.link = make_link(self)  # before anybody can ask about it
            await stack.enter_async_context(open_to_hosts(self.router, places.runtime / "calls", self.guests))
            await upkeep.start(self, self._tasks, upkeep.keep_states)
            await stack.enter_async_context(doors.serve_socket(self))
            await stack.enter_async_context(self.link)
            await figures.open_metrics(self, stack)
            await stack.enter_async_context(self.supervisor.open())
            await self._tasks.start(self.plugins.registry.follow)
            for work in (
                upkeep.sync_late,
                upkeep.follow_drop_ins,
                upkeep.retry_failed,
                upkeep.follow_needs,
                upkeep.watch_changes,
                bus_limits.bound_queues,
                record,
                bus_limits.sweep_shared,
                watchdog.keep_watch,
                watchdog.extend_start,
                name_core_blocks,
                bring_back,
            ):
                await upkeep.start(self, self._tasks, work)
            yield self

    async def start_services(self) -> None:
        """Read the plugins and return once each service has had its first attempt."""
        try:
            await anyio.to_thread.run_sync(self._config_in_force)
            await self.sync()
        except Exception as error:
            self.log.error("plugins cannot be read", exc_info=error)  # noqa: TRY400 - our own log
            self.problems["plugins"] = f"plugins cannot be read: {error}; mend it, then: sparkctl plugin rescan"
        await self.supervisor.attempted()
        self.ready = True
        self.tell_systemd()

    async def sync(self, config: Config | None = None) -> dict[str, list[str]]:
        """Bring the services in line with plugins and config; say what cannot be used, once."""
        before = dict(self.plugins.failures())
        done = await self.plugins.sync(config)
        self.problems.pop("plugins", None)
        for source, failure in self.plugins.failures():
            if before.get(source) != failure:
                self.log.error("plugin cannot be used", plugin=source.name, why=str(failure))
        self.tell_systemd()
        return done

    async def reload(self) -> list[str]:
        """Read the config again and apply it; return what changed. Raises ConfigError, and then nothing has changed."""
        async with self._reloading:  # two at once could leave the older one in force
            if self.ready:
                self.notifier.reloading()
            try:
                return await self._reload()
            except ConfigError as error:
                self.problems["reload"] = f"the config on disk has errors and was not taken over: {error}"
                raise
            except Exception as error:
                self.problems["reload"] = f"the config was read, and could not be applied: {error}"
                raise
            finally:
                self.notifier.reloaded()
                self.tell_systemd()

    async def _reload(self) -> list[str]:
        file = await anyio.to_thread.run_sync(self._config_in_force)
        fresh = await anyio.to_thread.run_sync(load_config, file)
        restart = needs_restart(self.config, fresh)
        changed = sorted(changed_plugins(self.config, fresh))
        self.problems.pop("reload", None)
        if restart:
            tables = ", ".join(f"[{name}]" for name in restart)
            self.problems["reload"] = f"{tables} changed in the config; restart the daemon for it to take effect"
        access = [name for name in ("access", "rpc") if getattr(fresh, name) != getattr(self.config, name)]
        self.config = take_over(self.config, fresh)
        await self.gate.apply()
        peers = [f"link.peers.{name}" for name in self.link.adopt(self.config.link.peers)]
        await self.plugins.sync(self.config)
        self.log.info("config read again", changed=",".join(changed) or "nothing", restart=",".join(restart) or "no")
        return [f"plugins.{name}" for name in changed] + peers + sorted({*access, *restart})

    def _config_in_force(self) -> Path | None:
        """Return the config file to go by, and let drop-ins be read from where it wants. Blocks."""
        shelf = self.shelf
        shelf.main = shelf.main or find_config()
        version = shelf.on_disk()
        self.plugins.registry.instead = shelf.instead(version)
        self.last_good.on_config(version)
        return shelf.in_force(version)

    async def reload_by_signal(self) -> None:
        """Reload as a signal asks it; a config with errors is told in the log and in status."""
        try:
            await self.reload()
        except ConfigError as error:
            self.log.error(  # noqa: TRY400 - the operator's mistake has no traceback
                "config not taken over", problems=" | ".join(error.problems)
            )
        except Exception as error:
            self.log.error("config not applied", exc_info=error)  # noqa: TRY400 - our own log

    async def status(self) -> NodeStatus:
        """Return everything about the node."""
        services = [await self.service_status(service) for service in list(self.supervisor.services.values())]
        services += [report.of_failure(*failed) for failed in self.plugins.failures()]
        own = await anyio.to_thread.run_sync(report.memory_of, None)
        return NodeStatus(
            node=self.config.node.name,
            node_id=self.node_id,
            role=self.config.node.role,
            site=self.config.node.site,
            version=VERSION,
            uptime_s=answers.uptime_s(self.started),
            summary=self.summary(),
            ready=self.ready,
            services=sorted(services, key=lambda service: service.name),
            links=self.link.status(),
            problems=self._all_problems(),
            core_memory_bytes=own,
            core_blocked=of_core(self),
        )

    async def service_status(self, service: Supervised) -> ServiceStatus:
        """Return everything about one service."""
        pid = service.instance.pid if service.instance else None
        memory = await anyio.to_thread.run_sync(report.memory_of, pid) if pid else None
        lines = [line.text for line in self.logbook.tail(service.name, 5)]
        found = report.of_service(service, pid=pid, memory=memory, lines=lines, blocked=self.blocks.of(service.name))
        return replace(found, budget=self.budgets.of(service.plan))

    def summary(self) -> str:
        """Return the one line of truth."""
        return report.summary(
            {name: service.state for name, service in self.supervisor.services.items()},
            {source.name: failed_state(failure) for source, failure in self.plugins.failures()},
        )

    def is_well(self) -> bool:
        """Whether everything that is wanted runs."""
        return not self.plugins.failures() and all(
            service.state in (*RUNNING, State.STOPPED, State.DISABLED, State.SHED)
            for service in self.supervisor.services.values()
        )

    def show_config(self) -> dict[str, Any]:
        """Return the config in force, secrets hidden."""
        secrets: dict[str, set[str]] = {}
        for manifest in self.plugins.manifests:
            secrets.setdefault(manifest.plugin, set()).update(secret_keys(manifest.config_schema))
        return show(self.config, secrets)

    def tell_systemd(self) -> None:
        """Say READY with the line of truth, once ready."""
        if self.ready:
            self.notifier.ready(self.line_of_truth())

    def line_of_truth(self) -> str:
        """Return what `systemctl status` shows: how many services run, which do not, and what else is wrong."""
        return report.truth(self.summary(), self._all_problems())

    @property
    def changed(self) -> anyio.Event:
        """Set, and replaced, at the next change of any service's state or of a link."""
        return self._changed

    def wake(self) -> None:
        """Let those look again who wait for `changed`."""
        self._changed.set()
        self._changed = anyio.Event()

    async def settled(self, service: Supervised) -> None:
        """Return when *service* is not on its way anywhere."""
        while service.state in ON_THE_WAY or self._is_due(service):
            await self._changed.wait()

    async def ask_hosts(
        self, question: Callable[[HostApi], Awaitable[T]], which: Callable[[str], bool] = lambda _service: True
    ) -> dict[str, T]:
        """Ask every running host, or those of *which*, at once; those that do not answer in time are left out."""
        found: dict[str, T] = {}

        async def ask(name: str) -> None:
            with anyio.move_on_after(ASK_LIMIT_S):
                try:
                    found[name] = await question(self.reach(name))
                except CallError as error:
                    self.log.debug("host did not answer", service=name, why=str(error))

        async with anyio.create_task_group() as tasks:
            for name, service in self.supervisor.services.items():
                if service.state in RUNNING and which(name):
                    tasks.start_soon(ask, name)
        return found

    @staticmethod
    def _is_due(service: Supervised) -> bool:
        """Whether what is wanted of the service has not begun to happen yet."""
        if service.wanted == "run":
            return service.state in RESTING or (service.state in PAUSING and service.is_poked)
        return service.state in (*RUNNING, *PAUSING)

    def _all_problems(self) -> list[str]:
        linked = self.config.link.listen or self.config.link.peers  # a node without links needs no key
        absent = [f"{plugin.problem}; {plugin.remedy}" for plugin in self.plugins.absent()]
        return [*self.problems.values(), *absent, *(self.link.problems() if linked else ())]

    def reach(self, service: str) -> HostApi:
        """Return a stand-in for the host of *service*."""
        return stub(HostApi, self.router.call, Terms(service=service, deadline_s=3600.0))

    def on_synced(self) -> None:
        """Wake who waits for `synced`."""
        self.last_good.on_synced()
        self.synced.set()
        self.synced = anyio.Event()

    def on_handler_error(self, method: str, error: BaseException) -> None:
        """Tell of a failure in one of the core's own handlers."""
        self.log.error("core handler failed", exc_info=error, method=method)

    def on_stranger(self, domain: str, address: str) -> None:
        """Tell of another user at one of the sockets."""
        if self.complaints.passes(f"bus {domain}") is not None:
            self.log.warning("bus: another user refused", socket=domain, peer=address)

    def on_service_change(self, service: Supervised) -> None:
        """Tell the log, systemd, the bus and those who wait what has become of *service*."""
        end = service.end
        level = self.log.warning if service.state in (State.BACKOFF, State.BROKEN, State.WAITING) else self.log.info
        level("service " + service.state.value, service=service.name, **({"why": end.reason} if end.reason else {}))
        self.wake()
        self._tasks.start_soon(self._reconsider_needs, service)
        self.last_good.on_service_change(service)
        self.tell_systemd()
        change = ServiceChanged(
            service=service.name, state=service.state.value, reason=end.reason, restarts=service.restarts
        )
        self.publish(change, f"system.health.service.{service.name}")

    async def _reconsider_needs(self, service: Supervised) -> None:
        """Let those look again who need *service*, or an interface that it serves."""
        served = {interface.name for interface in service.plan.manifest.serves}
        names = {NeedKind.SERVICE: {service.name}, NeedKind.INTERFACE: served}
        await self.needs.reconsider(set(names), lambda need: need.what in names[need.kind])

    def publish(self, event: object, topic: str) -> None:
        """Send an event of the core's own, soon; one that cannot be sent is told in the log."""
        self._tasks.start_soon(self._publish, event, topic)

    async def _publish(self, event: object, topic: str) -> None:
        try:
            await self.bus.publish(event, topic=topic)
        except Exception as error:
            self.log.error("event not published", exc_info=error, topic=topic)  # noqa: TRY400 - our own log
