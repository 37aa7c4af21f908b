"""The ways to the core's answers: the router that every call passes, and the JSON-RPC socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

from sparkd.access_interfaces import AccessApi, AuditApi
from sparkd.calls import CallRouter, Guests, Handlers, Rules, whole
from sparkd.core_interfaces import BusApi, ConfigApi, LogsApi, NodeApi, OutboxApi, PluginsApi, SupervisorApi
from sparkd.daemon import answers
from sparkd.daemon.access_answers import AccessAnswers
from sparkd.daemon.auditing import AuditAnswers
from sparkd.daemon.linking import refuse_call, same_site
from sparkd.daemon.log_answers import LogsAnswers
from sparkd.daemon.machine_answers import MachineAnswers
from sparkd.daemon.recorder_answers import RecorderAnswers
from sparkd.daemon.version import VERSION
from sparkd.errors import CallError, CallErrorKind
from sparkd.machine_interface import MachineApi
from sparkd.outbox_interface import OutboxHostApi
from sparkd.recorder.api import RecorderApi
from sparkd.rpc import Door, RpcLimits, core_manifest, serve_rpc
from sparkd.shedding_interface import SheddingApi
from sparkd.shm import FOLDER, SharedReader

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

CORE_INTERFACES = (
    NodeApi,
    PluginsApi,
    BusApi,
    OutboxApi,
    ConfigApi,
    LogsApi,
    AccessApi,
    RecorderApi,
    AuditApi,
    MachineApi,
    SheddingApi,
)


def make_router(core: Core, tasks: TaskGroup) -> CallRouter:
    """Return the router of *core*; calls are answered in *tasks*."""
    handlers = Handlers(on_error=core.on_handler_error)
    handlers.bind(NodeApi, answers.NodeAnswers(core))
    handlers.bind(PluginsApi, answers.PluginsAnswers(core))
    handlers.bind(BusApi, answers.BusAnswers(core))
    handlers.bind(OutboxApi, answers.OutboxAnswers(core.places.state / "outbox"))
    handlers.bind(ConfigApi, answers.ConfigAnswers(core))
    handlers.bind(LogsApi, LogsAnswers(core))
    handlers.bind(AccessApi, AccessAnswers(core))
    handlers.bind(OutboxHostApi, core.unit_outbox)
    handlers.bind(RecorderApi, RecorderAnswers(core))
    handlers.bind(AuditApi, AuditAnswers(core))
    handlers.bind(SheddingApi, core.shedding)
    handlers.bind(MachineApi, MachineAnswers(core))
    handlers.bind(SupervisorApi, answers.SupervisorAnswers(core))
    rules = Rules(
        verify=core.entrance.verify,
        check_host=core.guests.check,
        providers=lambda interface: core.plugins.providers(interface),  # noqa: PLW0108 - made later
        unavailable=partial(_unavailable, core),
        refuse_call=partial(refuse_call, core),
        same_site=partial(same_site, core),
        witness=core.auditor,
    )
    return CallRouter(
        node=core.config.node.name,
        core=handlers,
        tasks=tasks,
        rules=rules,
        shared=SharedReader(core.places.runtime / FOLDER),
    )


def make_guests(core: Core) -> Guests:
    """Return what lets the hosts of units in, which are of other users; the bus lets in those that are known."""
    shared = SharedReader(core.places.runtime / FOLDER)
    return Guests(
        expected=core.entrance.guests,
        processes=core.broker.peers.processes,
        whole=partial(whole, shared),
        on_refused=lambda peer: core.on_stranger("calls", f"uid {peer.uid}, pid {peer.pid}"),
    )


@asynccontextmanager
async def serve_socket(core: Core) -> AsyncIterator[None]:
    """Answer JSON-RPC while the block runs. Raises OSError if the socket cannot be made."""
    own = core_manifest(*CORE_INTERFACES)
    held: tuple[Any, ...] = ()
    served: tuple[Any, ...] = (own,)

    def manifests() -> tuple[Any, ...]:
        nonlocal held, served
        if held is not core.plugins.manifests:  # the same object until something changes: it is indexed once
            held = core.plugins.manifests
            served = (own, *held)
        return served

    access = core.gate.access
    core.gate.door = door = Door(core.router, manifests, access, VERSION, audit=core.auditor)
    opened = serve_rpc(
        core.places.socket,
        door.answer,
        access=access,
        limits=RpcLimits.of(core.config.rpc),
        on_error=core.on_handler_error,
    )
    async with opened as core.rpc_counts:
        yield


def _unavailable(core: Core, service: str) -> CallError:
    held = core.supervisor.services.get(service)
    if held is None:
        return CallError(CallErrorKind.UNAVAILABLE, f"service {service!r} is not there", remedy="sparkctl plugins")
    why = f": {held.end.reason}" if held.end.reason else ""
    remedy = held.end.remedy or f"sparkctl plugin start {service}"
    return CallError(CallErrorKind.UNAVAILABLE, f"service {service!r} is {held.state}{why}", remedy=remedy)
