"""The host of one service: what surrounds its coroutine, in a child process or as a task of the core.

Theory of operation. The host connects to the core's calls socket, proves by its one-time token which service it is,
opens the bus, and runs the service with a `Context`. When the service says `started()` the host says `ready`. It
answers the core's own questions (ping, snapshot, stop, stack) on the same connection, from the same event loop: an
answer to a ping is proof that the loop runs. The same code serves both isolations; only who calls `run_host` differs.

It leaves in this order: the service cleans up, still connected; no call is taken any more and the handlers under way
end; then the bus and the streams they used are closed. A host that has lost the core ends its service and itself.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from prometheus_client import CollectorRegistry

from sparkd.blocked import Blocks, tell_of_blocks
from sparkd.bus import BusClient, BusLimits, Sharing
from sparkd.bus.figures import BusFigures
from sparkd.calls import Handlers, Payloads, Terms, request_plain, requester, stub
from sparkd.calls.current import calling
from sparkd.calls.frames import MAX_DEADLINE_S
from sparkd.calls.hosts import connect_to_core
from sparkd.calls.stub import Requester
from sparkd.codec import Message, decode_message
from sparkd.core_interfaces import HostApi, SupervisorApi
from sparkd.errors import CallError, CallErrorKind, LocalMessageError
from sparkd.events import event_type
from sparkd.interfaces import interface_name
from sparkd.lasting import make_lasting
from sparkd.log import LEVELS, OncePer, StructuredLog
from sparkd.metrics import snapshot
from sparkd.outbox import Limits, RemoteOutbox, open_outbox
from sparkd.outbox_interface import OutboxHostApi
from sparkd.privacy import Privacy
from sparkd.service import Outbox, OutboxWriter, Record, Service

C = TypeVar("C")
I = TypeVar("I")  # noqa: E741 - I for interface

CORE_DEADLINE_S = 10.0
OUTBOX_DEADLINE_S = 30.0
"""For an append through the core: a slow disk may hold one up for seconds."""
EVENTS_STREAM = "events"
"""The outbox stream that a service's durable events go to."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host runs and who it is; plain data, so it can be sent to a child."""

    node: str
    node_id: str
    site: str
    runtime: str
    state: str
    token: str
    state_dir: str = ""
    """The service's own folder, if it is not beneath `state`."""
    remote_outbox: bool = False
    """Whether the outbox is the core's to write: a service of another user cannot."""
    bus: BusLimits = BusLimits()
    outbox: dict[str, float] = {}
    """The table `[outbox]`'s limits."""

    def limits(self) -> Limits:
        """Return the outbox limits."""
        held = self.outbox
        return Limits(
            max_bytes=int(held.get("max_bytes", 1 << 30)),
            max_age_s=held.get("max_age_s", 0.0),
            segment_bytes=int(held.get("segment_bytes", 16 << 20)),
        )


@dataclass
class HostContext(Generic[C]):
    """Implements `sparkd.service.Context`."""

    service: Service[C]
    config: C
    place: Place
    bus: BusClient
    outbox: Outbox
    log: StructuredLog
    metrics: CollectorRegistry
    handlers: Handlers
    tasks: TaskGroup
    call_core: SupervisorApi
    call_any: Requester
    home: Path | None = None

    @property
    def node(self) -> str:
        """This node's name."""
        return self.place.node

    @property
    def site(self) -> str:
        """The site this node stands at."""
        return self.place.site

    @cached_property
    def state_dir(self) -> Path:
        """A folder of this service's own that lasts."""
        if self.place.state_dir:
            return Path(self.place.state_dir)
        folder = Path(self.place.state) / "plugins" / self.service.name
        make_lasting(folder)  # waits for the disk once, when the service runs for the first time
        return folder

    async def serve(self, interface: type[I], handler: I) -> None:
        """Answer calls of *interface* with *handler*, from now on."""
        if interface not in self.service.serves:
            declared = ", ".join(interface_name(one) for one in self.service.serves) or "none"
            name = interface_name(interface)
            raise LocalMessageError(f"service {self.service.name!r} does not declare {name!r}; it declares: {declared}")
        self.handlers.bind(interface, handler)
        names = [name for name in self.handlers.interfaces if name != interface_name(HostApi)]
        await self.call_core.bind(interfaces=names)

    def call(
        self,
        interface: type[I],
        *,
        node: str | None = None,
        service: str | None = None,
        deadline_s: float = 10.0,
        privacy: Privacy = Privacy.LOCAL,
    ) -> I:
        """Return a stand-in for *interface*."""
        terms = Terms(node=node or "", service=service or "", deadline_s=deadline_s, privacy=privacy)
        return stub(interface, self.call_any, terms)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = 10.0,
        privacy: Privacy = Privacy.LOCAL,
    ) -> Any:
        """Call *method* with plain values."""
        return await request_plain(self.call_any, method, params, Terms(deadline_s=deadline_s, privacy=privacy))

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        """Say that the service runs with less than it wants."""
        self.tasks.start_soon(_told, partial(self.call_core.degraded, reason=reason, remedy=remedy))

    def recovered(self) -> None:
        """Take `degraded` back."""
        self.tasks.start_soon(_told, self.call_core.recovered)


async def _told(say: Callable[[], Any]) -> None:
    try:
        await say()
    except CallError:  # the core is stopping or gone: nobody is left to show it to
        return


class EventStore:
    """Puts durable events into the service's stream; it is opened when the first one comes."""

    def __init__(self, outbox: Outbox, stack: AsyncExitStack) -> None:
        """Write to *outbox*; *stack* closes the stream."""
        self._outbox, self._stack = outbox, stack
        self._opening = anyio.Lock()
        self._writer: OutboxWriter | None = None

    async def store(self, record: Record) -> int:
        """Return the number of *record* once it is on disk. Raises StorageError."""
        async with self._opening:
            if self._writer is None:
                self._writer = await self._stack.enter_async_context(self._outbox.writer(EVENTS_STREAM))
        record = msgspec.structs.replace(record, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns())
        (number,) = await self._writer.append([record])
        return number


class HostHandler:
    """Answers what the core asks of a host."""

    def __init__(self, context: HostContext[Any], scope: anyio.CancelScope, run: Callable[[], Any]) -> None:
        """Stop by *scope*; *run* returns the service's coroutine, once it runs."""
        self._context, self._scope, self._run = context, scope, run

    async def ping(self) -> bool:
        """Answer."""
        return True

    async def stop(self) -> None:
        """Cancel the service."""
        self._scope.cancel()

    async def set_log_level(self, *, level: Literal["debug", "info", "warning", "error"]) -> None:
        """Log at *level*: the whole process. The core does not ask this of a host in its own."""
        logging.getLogger().setLevel(LEVELS[level])

    async def snapshot(self) -> bytes:
        """Return the service's metrics."""
        return snapshot(self._context.metrics)

    async def stats(self) -> dict[str, Any]:
        """Return counters of the bus client."""
        return self._context.bus.stats()

    async def stack(self) -> str:
        """Return where the service waits."""
        return "\n".join(f"{file}:{line} {name}" for file, line, name in suspended_at(self._run()))


def suspended_at(coroutine: Any) -> list[tuple[str, int, str]]:
    """Return (file, line, function) of each frame a suspended coroutine waits in, innermost last."""
    frames = []
    while coroutine is not None and inspect.iscoroutine(coroutine):
        frame = coroutine.cr_frame
        if frame is not None:
            frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = coroutine.cr_await
    return frames


async def run_host(service: Service[C], config: C, place: Place, *, home: Path | None = None) -> bool:
    """Run *service* until it returns, fails or is stopped; return whether it was stopped.

    With *home*, where the plugin's code is, the loop is this host's own: what blocks it is named.

    Raises what the service raises, OSError if the core cannot be reached, CallError if the core does not want us or
    is gone.
    """
    runtime, log = Path(place.runtime), StructuredLog(service.name)
    handlers = Handlers(on_error=lambda method, error: log.error("handler failed", exc_info=error, method=method))
    lost = anyio.Event()
    sharing = Sharing(runtime, service=service.name, max_total_bytes=place.bus.shm_max_bytes)
    payloads = Payloads(sharing.reader, sharing.writer)
    async with (
        anyio.create_task_group() as tasks,
        connect_to_core(
            runtime / "calls", handlers=handlers, tasks=tasks, payloads=payloads, on_lost=lost.set
        ) as endpoint,
        AsyncExitStack() as stack,
    ):
        call_any = payloads.calling(requester(endpoint))
        core = stub(SupervisorApi, call_any, Terms(deadline_s=CORE_DEADLINE_S))
        await core.hello(service=service.name, token=place.token)
        outbox = _outbox(service, place, call_any)
        streams = await stack.enter_async_context(AsyncExitStack())
        bus = await stack.enter_async_context(_bus(service, place, core, EventStore(outbox, streams), sharing).open())
        context = HostContext(
            service=service,
            config=config,
            place=place,
            bus=bus,
            outbox=outbox,
            log=log,
            metrics=_registry(bus),
            handlers=handlers,
            tasks=tasks,
            call_core=core,
            call_any=call_any,
            home=home,
        )
        async with anyio.create_task_group() as answering:
            endpoint.tasks = answering
            answering.start_soon(_end_with_core, lost)
            try:
                stopped = await _run(context, core)
            finally:
                endpoint.close("this host is stopping")
                answering.cancel_scope.cancel()
        tasks.cancel_scope.cancel()
    return stopped


def _outbox(service: Service[Any], place: Place, call_any: Requester) -> Outbox:
    if not place.remote_outbox:
        root = Path(place.state) / "outbox"
        return open_outbox(root, node_id=place.node_id, service=service.name, limits=place.limits())
    quick = stub(OutboxHostApi, call_any, Terms(service="core", deadline_s=OUTBOX_DEADLINE_S))
    patient = stub(OutboxHostApi, call_any, Terms(service="core", deadline_s=MAX_DEADLINE_S))
    return RemoteOutbox(place.node_id, quick, patient)


def _registry(bus: BusClient) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(BusFigures(bus.stats))
    return registry


async def _end_with_core(lost: anyio.Event) -> None:
    await lost.wait()
    raise CallError(CallErrorKind.UNAVAILABLE, "the connection to the core is lost")


def _bus(service: Service[Any], place: Place, core: SupervisorApi, events: EventStore, sharing: Sharing) -> BusClient:
    async def fetch_retained(topic: str) -> list[Message]:
        return [decode_message(frames) for frames in await core.retained(topic=topic)]

    def current_trace() -> bytes | None:
        call = calling()
        return call.trace if call else None

    return BusClient(
        Path(place.runtime),
        node=place.node,
        service=service.name,
        publishes=topics(service.publishes),
        reads=topics(service.reads),
        store=events.store,
        fetch_retained=fetch_retained,
        current_trace=current_trace,
        limits=place.bus,
        sharing=sharing,
        on_flood=_flood_teller(service.name),
    )


def _flood_teller(service: str) -> Callable[[str, int], None]:
    """Return what tells the log of a flood: once a minute for each topic, however many events it has."""
    log, complaints = StructuredLog(service), OncePer()

    def tell(topic: str, flooded: int) -> None:
        if complaints.passes(topic) is not None:
            remedy = "publish less, or raise publish_messages_per_s and publish_bytes_per_s in its table of the config"
            log.warning("flooding the bus, events dropped", topic=topic, dropped=flooded, remedy=remedy)

    return tell


def topics(declared: tuple[type[Any] | str, ...]) -> tuple[str, ...]:
    """Return the topics of a manifest's declaration, which names events or topics."""
    return tuple(one if isinstance(one, str) else event_type(one).topic for one in declared)


async def _run(context: HostContext[C], core: SupervisorApi) -> bool:
    """Run the service's coroutine; return whether it was stopped from outside."""
    service, running = context.service, list[Any]()

    async def whole(*, task_status: TaskStatus[None]) -> None:
        coroutine = service.run(context, task_status=task_status)
        running.append(coroutine)
        try:
            await coroutine
        except SystemExit as error:  # it would end the event loop, and the core with it if the service runs there
            raise RuntimeError(f"called sys.exit({error.code!r})") from error

    with anyio.CancelScope() as scope:
        context.handlers.bind(HostApi, HostHandler(context, scope, lambda: running[0] if running else None))
        async with anyio.create_task_group() as work:
            await work.start(whole, name=service.name)  # the supervisor keeps the start limit
            await core.ready()
            if context.home is not None:
                context.tasks.start_soon(_name_blocks, service.name, context.home, core)
    return scope.cancelled_caught


async def _name_blocks(service: str, home: Path, core: SupervisorApi) -> None:
    async def tell(blocks: Blocks) -> None:
        with contextlib.suppress(CallError):  # the core is gone, and we are about to be
            await core.blocked(**asdict(blocks))

    await tell_of_blocks(service, lambda: [home], tell)
