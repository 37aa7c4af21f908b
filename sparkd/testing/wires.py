"""Run services of several nodes in one process, joined by wires that misbehave as told.

Each service gets a context of its own with a real outbox; calls go straight to the other's handler, but through the
same bytes as on a link, and with the faults of a link: lost, repeated, late, cut off half-way. So what is delivered can
be counted under any order of mishaps, thousands of times a minute.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from prometheus_client import CollectorRegistry

from sparkd.calls.current import answering
from sparkd.codec import Header, decode_body, encode_body, topic_of
from sparkd.errors import CallError, CallErrorKind
from sparkd.events import Durability, event_type
from sparkd.interfaces import MethodSpec, interface_spec
from sparkd.privacy import Privacy
from sparkd.service import CallInfo, Context, Outbox, Received, Record, Subscription

C = TypeVar("C")
E = TypeVar("E")
I = TypeVar("I")  # noqa: E741 - I for interface

CUT_AFTER_S = 0.0005
DURABLE_STREAM = "events"


class Fault(StrEnum):
    """What happens to one call between nodes."""

    NONE = "none"
    DROPPED = "dropped"  # never arrives
    LOST = "lost"  # arrives, its answer does not
    TWICE = "twice"  # arrives twice at once, one answer returns
    LATE = "late"  # given up by the caller, arrives together with the next call
    CUT = "cut"  # the caller gives up while the handler works


@dataclass
class Wires:
    """What joins the nodes: who serves what, and which fault comes next."""

    faults: deque[Fault] = field(default_factory=deque)
    handlers: dict[tuple[str, str], object] = field(default_factory=dict)
    """By (node, interface)."""
    seen: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    """Each call that arrived: method and parameters."""
    down: bool = False
    answers: dict[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = field(default_factory=dict)
    """What `ctx.request` finds, by method."""
    _late: list[_Delivery] = field(default_factory=list)

    async def carry(self, info: CallInfo, node: str, spec: MethodSpec, params: dict[str, Any]) -> Any:
        """Carry a call to *node* and its answer back, with whatever fault is next."""
        body = encode_body(spec.params(**params))
        between_nodes = info.node != node
        fault = self.faults.popleft() if self.faults and between_nodes else Fault.NONE
        deliver = _Delivery(self, info, node, spec, body)
        if (self.down and between_nodes) or fault is Fault.DROPPED:
            raise CallError(CallErrorKind.UNAVAILABLE, "the link is down", remedy="wait")
        if fault is Fault.LATE:
            self._late.append(deliver)
            raise CallError(CallErrorKind.DEADLINE, "no answer in time")
        return decode_body(spec.result, await self._deliver(deliver, fault))

    async def _deliver(self, delivery: _Delivery, fault: Fault) -> bytes:
        beside, self._late = self._late, []
        if fault is Fault.TWICE:
            beside.append(delivery)
        outcome = _Outcome()
        async with anyio.create_task_group() as others:
            for other in beside:
                others.start_soon(_Outcome().of, other)
            with anyio.move_on_after(CUT_AFTER_S if fault is Fault.CUT else math.inf):
                await outcome.of(delivery)
        if fault in (Fault.CUT, Fault.LOST):
            raise CallError(CallErrorKind.DEADLINE, "no answer in time")
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.answer


@dataclass
class _Outcome:
    """What a delivery came to, so that a failure of one does not end those beside it."""

    answer: bytes = b""
    failure: CallError | None = None

    async def of(self, delivery: _Delivery) -> None:
        try:
            self.answer = await delivery()
        except CallError as error:
            self.failure = error


@dataclass(frozen=True)
class _Delivery:
    """One call on its way; calling it hands it over and returns the answer's bytes."""

    wires: Wires
    info: CallInfo
    node: str
    spec: MethodSpec
    body: bytes

    async def __call__(self) -> bytes:
        interface = self.info.method.partition(".")[0]
        handler = self.wires.handlers.get((self.node, interface))
        if handler is None:
            raise CallError(CallErrorKind.UNAVAILABLE, f"nobody serves {interface} on {self.node}")
        params = decode_body(self.spec.params, self.body)
        arguments = {name: getattr(params, name) for name in params.__struct_fields__}
        self.wires.seen.append((self.info.method, arguments))
        with answering(self.info):
            return encode_body(await getattr(handler, self.spec.attribute)(**arguments))


class _Stub:
    """What `ctx.call` returns: every method of the interface is a call."""

    def __init__(self, ctx: WiredContext[Any], interface: type[Any], node: str, privacy: Privacy) -> None:
        self._ctx, self._spec, self._node, self._privacy = ctx, interface_spec(interface), node, privacy

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = self._spec.methods[name.removesuffix("_")]
        ctx = self._ctx
        info = CallInfo(f"{self._spec.name}.{method.name}", ctx.service, ctx.node, self._privacy, None, 10.0)

        async def call(**params: Any) -> Any:
            return await ctx.wires.carry(info, self._node, method, params)

        return call


@dataclass
class Lines:
    """A log that keeps its lines."""

    lines: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def debug(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("warning", event, fields))

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Keep a line."""
        self.lines.append(("error", event, {**fields, "exc_info": exc_info}))


class WiredBus:
    """A bus within one service: durable events go to the outbox first, like on the real one."""

    def __init__(self, ctx: WiredContext[Any]) -> None:
        """Publish for the service of *ctx*."""
        self.published: list[object] = []
        self._ctx = ctx
        self._feeds: defaultdict[type[Any], list[MemoryObjectSendStream[Received[Any]]]] = defaultdict(list)

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        privacy: Privacy | None = None,
        trace: bytes | None = None,
        key: str | None = None,
    ) -> None:
        """Keep *event*, after the outbox has it if it is durable; then give it to those who subscribed here."""
        declared = event_type(type(event))
        if declared.durability is Durability.DURABLE:
            record = Record(
                topic=topic_of(type(event), topic),
                body=encode_body(event),
                privacy=declared.privacy if privacy is None else privacy,
                trace=trace,
                key=key,
            )
            async with self._ctx.outbox.writer(DURABLE_STREAM) as writer:
                await writer.append([record])
        self.published.append(event)
        header = Header(1, self._ctx.node, self._ctx.service, 1, 0, 0, 0, declared.privacy, None)
        for feed in self._feeds[type(event)]:
            await feed.send(Received(declared.topic, header, event))

    def subscribe(self, what: type[E], **_: object) -> AbstractAsyncContextManager[Subscription[E]]:
        """Subscribe to what is published here."""
        return self._subscribe(what)

    async def retained(self, what: type[E], **_: object) -> list[Received[E]]:  # noqa: ARG002 - the bus's own signature
        """Return nothing: nobody keeps last values here."""
        return []

    @asynccontextmanager
    async def _subscribe(self, what: type[E]) -> AsyncIterator[Subscription[E]]:
        send, receive = anyio.create_memory_object_stream[Received[E]](100)
        self._feeds[what].append(send)
        try:
            with send, receive:
                yield cast("Subscription[E]", receive)
        finally:
            self._feeds[what].remove(send)


@dataclass
class WiredContext(Generic[C]):
    """The context of one service on one node of the wires."""

    wires: Wires
    node: str
    service: str
    config: C
    outbox: Outbox
    state_dir: Path
    site: str = "home"
    log: Lines = field(default_factory=Lines)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    states: list[str] = field(default_factory=list)
    """What was said by `degraded`, and `recovered`, in order."""
    bus: WiredBus = field(init=False)

    def __post_init__(self) -> None:
        self.bus = WiredBus(self)

    def context(self) -> Context[C]:
        """Return this as the type a service expects."""
        return cast("Context[C]", self)

    async def serve(self, interface: type[I], handler: I) -> None:
        """Let others call *handler*."""
        self.wires.handlers[self.node, interface_spec(interface).name] = handler

    def call(self, interface: type[I], *, node: str | None = None, privacy: Privacy = Privacy.LOCAL, **_: object) -> I:
        """Return a stand-in whose methods are calls over the wires."""
        return cast("I", _Stub(self, interface, node or self.node, privacy))

    async def request(self, method: str, params: Mapping[str, Any] | None = None, **_: object) -> Any:
        """Ask whoever stands in `wires.answers`."""
        if method not in self.wires.answers:
            raise CallError(CallErrorKind.UNKNOWN_METHOD, f"unknown method {method}")
        return await self.wires.answers[method](params or {})

    def degraded(self, reason: str, *, remedy: str = "") -> None:
        """Keep what was said."""
        self.states.append(f"{reason} ({remedy})")

    def recovered(self) -> None:
        """Keep that it was taken back."""
        self.states.append("recovered")
