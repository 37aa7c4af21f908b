"""The core: every part of the daemon, wired together, and the orders to it.

Theory of operation. `run` opens the parts from the inside out (zygote, bus, calls, socket, link, metrics, supervisor)
and leaves them in reverse, so services stop first, while everything they need still runs. Each part is told about the
others by callbacks made here; none knows this class but the answers.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from sparkd.bus import Broker, BusClient, Retained
from sparkd.calls import CallRouter, Handlers, Rules, Terms, open_to_hosts, stub
from sparkd.config import Config, Places, changed_plugins, find_config, load_config, needs_restart, show, take_over
from sparkd.core_interfaces import (
    BusApi,
    ConfigApi,
    HostApi,
    LogsApi,
    NodeApi,
    NodeStatus,
    OutboxApi,
    PluginsApi,
    ServiceStatus,
    SupervisorApi,
)
from sparkd.daemon import answers, figures, report
from sparkd.daemon.logbook import Logbook
from sparkd.daemon.plugins import Plugins, failed_state
from sparkd.daemon.version import VERSION
from sparkd.errors import CallError, CallErrorKind, ConfigError
from sparkd.events import LinkChanged, NodeHealth, ServiceChanged, event_type
from sparkd.host import Place
from sparkd.link import Identity, Link, LinkHooks
from sparkd.log import StructuredLog
from sparkd.metrics import serve_metrics, snapshot
from sparkd.registry import DropInWatch, ManifestCache, Registry
from sparkd.rpc import Door, RpcCounts, RpcLimits, access_of, core_manifest, serve_rpc
from sparkd.service import Isolation
from sparkd.states import State
from sparkd.supervisor import Launcher, Plan, Supervised, Supervisor
from sparkd.supervisor.processes import Entrance, InlineLauncher, ProcessLauncher, Surroundings
from sparkd.systemd import Notifier
from sparkd.zygote import Zygote

T = TypeVar("T")

CORE_INTERFACES = (NodeApi, PluginsApi, BusApi, OutboxApi, ConfigApi, LogsApi)
ASK_LIMIT_S = 2.0
RETRY_FAILED_S = 300.0
PATH_LOOK_S = 2.0
RUNNING = (State.RUNNING, State.DEGRADED)
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
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    retained: Retained = field(default_factory=Retained)
    entrance: Entrance = field(default_factory=Entrance)
    supervisor: Supervisor = field(default_factory=Supervisor)
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong and is not a service's or a link's, by what it is about."""
    broker: Broker = field(init=False)
    bus: BusClient = field(init=False)
    router: CallRouter = field(init=False)
    link: Link = field(init=False)
    plugins: Plugins = field(init=False)
    rpc_counts: RpcCounts = field(init=False)
    _tasks: TaskGroup = field(init=False)
    _changed: anyio.Event = field(default_factory=anyio.Event)
    _synced: anyio.Event = field(default_factory=anyio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Core]:
        """Run all parts until the context is left. Raises OSError if a socket cannot be made."""
        config, places = self.config, self.places
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.zygote.attach())
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self.broker = Broker(
                places.runtime,
                high_water=config.bus.high_water_messages,
                reader_gids=report.group_ids(config.bus.readers_group),
                on_refused=self._on_stranger,
            )
            await stack.enter_async_context(self.broker.open())
            self.bus = BusClient(places.runtime, node=config.node.name, service="core")
            await stack.enter_async_context(self.bus.open())
            self.router = self._make_router()
            await stack.enter_async_context(open_to_hosts(self.router, places.runtime / "calls"))
            self.plugins = self._make_plugins()
            await self._tasks.start(self._keep_states)
            await stack.enter_async_context(self._serve_socket())
            self.link = self._make_link()
            await stack.enter_async_context(self.link)
            await self._open_metrics(stack)
            await stack.enter_async_context(self.supervisor.open())
            await self._tasks.start(self.plugins.registry.follow)
            self._tasks.start_soon(self._sync_late)
            await self._tasks.start(self._follow_drop_ins)
            self._tasks.start_soon(self._retry_failed)
            yield self

    async def start_services(self) -> None:
        """Read the plugins and return once each service has had its first attempt."""
        await self.plugins.sync()
        for source, failure in self.plugins.failures():
            self.log.error("plugin cannot be used", plugin=source.name, why=str(failure))
        await self.supervisor.attempted()
        self.ready = True
        self.tell_systemd()

    async def reload(self) -> list[str]:
        """Read the config again and apply it; return what changed. Raises ConfigError, and then nothing has changed."""
        file = self.config.files[0] if self.config.files else find_config()
        fresh = await anyio.to_thread.run_sync(load_config, file)
        restart = needs_restart(self.config, fresh)
        changed = sorted(changed_plugins(self.config, fresh))
        self.problems.pop("reload", None)
        if restart:
            tables = ", ".join(f"[{name}]" for name in restart)
            self.problems["reload"] = f"{tables} changed in the config; restart the daemon for it to take effect"
        self.config = take_over(self.config, fresh)
        await self.plugins.sync(self.config)
        self.log.info("config read again", changed=",".join(changed) or "nothing", restart=",".join(restart) or "no")
        return [f"plugins.{name}" for name in changed] + restart

    async def reload_by_signal(self) -> None:
        """Reload as systemd asks it, saying so; a config with errors is told in the log and in status."""
        self.notifier.reloading()
        try:
            await self.reload()
        except ConfigError as error:
            self.problems["reload"] = f"the config on disk has errors and was not taken over: {error}"
            self.log.error(  # noqa: TRY400 - the operator's mistake has no traceback
                "config not taken over", problems=" | ".join(error.problems)
            )
        self.tell_systemd()

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
        )

    async def service_status(self, service: Supervised) -> ServiceStatus:
        """Return everything about one service."""
        pid = service.instance.pid if service.instance else None
        memory = await anyio.to_thread.run_sync(report.memory_of, pid) if pid else None
        lines = self.logbook.tail(service.name, 5)
        return report.of_service(service, pid=pid, memory=memory, lines=[line.text for line in lines])

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
        return show(self.config)

    def tell_systemd(self) -> None:
        """Say READY with the line of truth, once ready."""
        if self.ready:
            self.notifier.ready(self.summary())

    async def settled(self, service: Supervised) -> None:
        """Return when *service* is not on its way anywhere."""
        while service.state in ON_THE_WAY or self._is_due(service):
            await self._changed.wait()

    async def ask_hosts(self, question: Callable[[HostApi], Awaitable[T]]) -> dict[str, T]:
        """Ask every running host at once; those that do not answer in time are left out."""
        found: dict[str, T] = {}

        async def ask(name: str) -> None:
            with anyio.move_on_after(ASK_LIMIT_S):
                try:
                    found[name] = await question(self._reach(name))
                except CallError as error:
                    self.log.debug("host did not answer", service=name, why=str(error))

        async with anyio.create_task_group() as tasks:
            for name, service in self.supervisor.services.items():
                if service.state in RUNNING:
                    tasks.start_soon(ask, name)
        return found

    @staticmethod
    def _is_due(service: Supervised) -> bool:
        """Whether what is wanted of the service has not begun to happen yet."""
        wants_to_run = service.wanted == "run"
        return (wants_to_run and service.state in (State.STOPPED, State.DISABLED, State.SHED)) or (
            not wants_to_run and service.state in (*RUNNING, State.BACKOFF, State.WAITING)
        )

    def _all_problems(self) -> list[str]:
        linked = self.config.link.listen or self.config.link.peers  # a node without links needs no key
        absent = [f"{plugin.problem}; {plugin.remedy}" for plugin in self.plugins.absent()]
        return [*self.problems.values(), *absent, *(self.link.problems() if linked else ())]

    def _make_router(self) -> CallRouter:
        handlers = Handlers(on_error=self._on_handler_error)
        handlers.bind(NodeApi, answers.NodeAnswers(self))
        handlers.bind(PluginsApi, answers.PluginsAnswers(self))
        handlers.bind(BusApi, answers.BusAnswers(self))
        handlers.bind(OutboxApi, answers.OutboxAnswers(self.places.state / "outbox"))
        handlers.bind(ConfigApi, answers.ConfigAnswers(self))
        handlers.bind(LogsApi, answers.LogsAnswers(self))
        handlers.bind(SupervisorApi, answers.SupervisorAnswers(self))
        rules = Rules(
            verify=self.entrance.verify,
            providers=lambda interface: self.plugins.providers(interface),  # noqa: PLW0108 - made later
            unavailable=self._unavailable,
            refuse_call=self._refuse_call,
            same_site=self._same_site,
        )
        return CallRouter(node=self.config.node.name, core=handlers, tasks=self._tasks, rules=rules)

    def _make_plugins(self) -> Plugins:
        config, places = self.config, self.places
        surroundings = Surroundings(
            place=self._place,
            entrance=self.entrance,
            reach=self._reach,
            gone=self.router.drop,
            on_line=self.logbook.child_line,
            log_level=config.node.log_level,
        )
        launchers: dict[Isolation, Launcher] = {
            Isolation.PROCESS: ProcessLauncher(self.zygote, surroundings),
            Isolation.INLINE: InlineLauncher(surroundings),
        }

        def supervise(plan: Plan) -> Supervised:
            return Supervised(
                plan=plan,
                launcher=lambda plan: launchers.get(plan.isolation, launchers[Isolation.PROCESS]),
                missing=self._missing,
                on_change=self._on_service_change,
            )

        cache = ManifestCache(places.cache / "manifests")
        registry = Registry(self.zygote, folders=places.plugins, cache=cache)
        return Plugins(
            config=config,
            registry=registry,
            supervisor=self.supervisor,
            supervise=supervise,
            on_synced=self._on_synced,
        )

    @asynccontextmanager
    async def _serve_socket(self) -> AsyncIterator[None]:
        access = access_of(self.config.rpc)
        own = core_manifest(*CORE_INTERFACES)
        held: tuple[Any, ...] = ()
        served: tuple[Any, ...] = (own,)

        def manifests() -> tuple[Any, ...]:
            nonlocal held, served
            if held is not self.plugins.manifests:  # the same object until something changes: it is indexed once
                held = self.plugins.manifests
                served = (own, *held)
            return served

        door = Door(self.router, manifests, access, VERSION)
        opened = serve_rpc(
            self.places.socket,
            door.answer,
            access=access,
            limits=RpcLimits.of(self.config.rpc),
            on_error=self._on_handler_error,
        )
        async with opened as self.rpc_counts:
            yield

    def _make_link(self) -> Link:
        node = self.config.node
        identity = Identity(name=node.name, node_id=self.node_id, site=node.site, role=node.role, version=VERSION)
        endpoints: dict[str, Any] = {}

        def up(peer: str, channel: Any) -> None:
            endpoints[peer] = self.router.attach(peer, channel, kind="node")

        def down(peer: str, reason: str) -> None:
            endpoint = endpoints.pop(peer, None)
            if endpoint is not None:
                self.router.detach(endpoint, reason)

        def frames(peer: str, received: list[bytes]) -> None:
            if peer in endpoints:
                endpoints[peer].feed(received)

        hooks = LinkHooks(
            on_peer_up=up,
            on_peer_down=down,
            on_frames=frames,
            retained=lambda topics: [message for topic in topics for message in self.retained.at(topic)],
            on_change=self._on_link_change,
        )
        keys = self.places.state / "keys"
        return Link(self.config.link, keys_dir=keys, identity=identity, bus=self.bus, hooks=hooks, log=self.log)

    async def _open_metrics(self, stack: AsyncExitStack) -> None:
        address = self.config.node.metrics_listen
        if not address:
            return
        registry = figures.registry_of(self)

        async def snapshots() -> list[tuple[str, bytes]]:
            return [("core", snapshot(registry)), *(await self.ask_hosts(lambda host: host.snapshot())).items()]

        try:
            await stack.enter_async_context(serve_metrics(address, snapshots))
        except OSError as error:
            self.problems["metrics"] = (
                f"no metrics: cannot listen on {address}: {error.strerror}; set [node] metrics_listen to another port"
            )
            self.log.warning("no metrics", address=address, why=str(error))

    def _place(self, token: str) -> Place:
        config = self.config
        return Place(
            node=config.node.name,
            node_id=self.node_id,
            site=config.node.site,
            runtime=str(self.places.runtime),
            state=str(self.places.state),
            token=token,
            high_water=config.bus.high_water_messages,
            outbox={
                "max_bytes": config.outbox.max_bytes,
                "max_age_s": config.outbox.max_age_s,
                "segment_bytes": config.outbox.segment_bytes,
            },
        )

    def _reach(self, service: str) -> HostApi:
        return stub(HostApi, self.router.call, Terms(service=service, deadline_s=3600.0))

    def _missing(self, plan: Plan) -> str | None:
        running = {name for name, service in self.supervisor.services.items() if service.state in RUNNING}
        return report.missing_need(plan.manifest.needs, running)

    def _unavailable(self, service: str) -> CallError:
        held = self.supervisor.services.get(service)
        if held is None:
            return CallError(CallErrorKind.UNAVAILABLE, f"service {service!r} is not there", remedy="sparkctl plugins")
        why = f": {held.end.reason}" if held.end.reason else ""
        remedy = held.end.remedy or f"sparkctl plugin start {service}"
        return CallError(CallErrorKind.UNAVAILABLE, f"service {service!r} is {held.state}{why}", remedy=remedy)

    def _refuse_call(self, peer: str, service: str, interface: str, method: str) -> str | None:
        settings = self.config.link.peers.get(peer)
        allowed = settings.calls if settings else []
        if f"{interface}.{method}" in allowed or f"{interface}.*" in allowed:
            return None
        return f"[link.peers.{peer}] calls lets it call {allowed}, not {service}:{interface}.{method}"

    def _same_site(self, node: str) -> bool:
        settings = self.config.link.peers.get(node)
        return settings is not None and settings.site == self.config.node.site

    def _on_synced(self) -> None:
        self._synced.set()
        self._synced = anyio.Event()

    def _on_handler_error(self, method: str, error: BaseException) -> None:
        self.log.error("core handler failed", exc_info=error, method=method)

    def _on_stranger(self, domain: str, address: str) -> None:
        self.log.warning("bus: another user refused", socket=domain, peer=address)

    def _on_service_change(self, service: Supervised) -> None:
        end = service.end
        level = self.log.warning if service.state in (State.BACKOFF, State.BROKEN, State.WAITING) else self.log.info
        level("service " + service.state.value, service=service.name, **({"why": end.reason} if end.reason else {}))
        self._changed.set()
        self._changed = anyio.Event()
        self.supervisor.poke(lambda other: other.state is State.WAITING and other is not service)
        self.tell_systemd()
        change = ServiceChanged(
            service=service.name, state=service.state.value, reason=end.reason, restarts=service.restarts
        )
        self._publish(change, f"system.health.service.{service.name}")

    def _on_link_change(self, change: LinkChanged) -> None:
        self._publish(change, f"system.health.link.{change.peer}")

    def _publish(self, event: object, topic: str) -> None:
        self._tasks.start_soon(partial(self.bus.publish, event, topic=topic))

    async def _keep_states(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Keep the last values of state topics: those of the platform and those that manifests declare."""
        while True:
            topics = self._state_topics()
            async with self.bus.subscribe_messages(*topics) as messages:
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._until_other_states, topics, tasks.cancel_scope)
                    async for received in messages:
                        self.retained.keep(received.event)

    async def _until_other_states(self, topics: tuple[str, ...], scope: anyio.CancelScope) -> None:
        while self._state_topics() == topics:
            await self._synced.wait()
        scope.cancel()

    def _state_topics(self) -> tuple[str, ...]:
        declared = {topic for manifest in self.plugins.manifests for topic in manifest.states}
        return tuple(sorted(declared | {event_type(NodeHealth).topic}))

    async def _follow_drop_ins(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with DropInWatch(self.places.plugins) as watch:
            task_status.started()
            async for changes in watch:
                done = await self.plugins.sync()
                self.log.info("drop-ins changed", paths=len(changes.added | changes.changed | changes.removed), **done)
                for source, failure in self.plugins.failures():
                    self.log.error("plugin cannot be used", plugin=source.name, why=str(failure))
                self.tell_systemd()

    async def _sync_late(self) -> None:
        """Take over what slow plugins offer once they are read: nobody waits for them."""
        while True:
            await self.plugins.registry.late()
            await self.plugins.sync()
            self.tell_systemd()

    async def _retry_failed(self) -> None:
        while True:
            await anyio.sleep(RETRY_FAILED_S)
            if self.plugins.failures():
                await self.plugins.sync()
