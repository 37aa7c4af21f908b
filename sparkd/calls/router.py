"""Where every call of a node passes: from services, the Unix socket and other nodes to whoever answers.

Theory of operation: each service host and each linked node is a peer with its own `Endpoint`. A request is stamped
with who really sent it, its address is resolved, the rules are asked, and then it is either answered by the core's own
handlers or passed on by a `Relay`, frame by frame, body undecoded. A host must say `supervisor.hello` before anything
else, and `supervisor.bind` before it gets calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import anyio
import msgspec
from anyio.abc import TaskGroup

from sparkd.calls.address import Address, parse_address
from sparkd.calls.endpoint import MAX_IN_FLIGHT, Channel, Endpoint, Exchange
from sparkd.calls.frames import MAX_DEADLINE_S, Request
from sparkd.calls.handlers import Handlers
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.outgoing import Call, ItemStream, OutgoingCall, Result
from sparkd.calls.params import did_you_mean
from sparkd.calls.payloads import whole
from sparkd.calls.relay import Relay
from sparkd.calls.rules import Rules, check_privacy, check_reserved
from sparkd.calls.witness import Watched
from sparkd.codec import Buffer, decode_body
from sparkd.errors import CallError, CallErrorKind, RemoteMessageError
from sparkd.privacy import Privacy
from sparkd.shm import SharedReader

CORE = "core"
HELLO, BIND = "supervisor.hello", "supervisor.bind"
MAX_FROM_NODE = 64
"""Calls under way from one remote node: fewer than a host may make, so a remote cannot occupy a service alone."""
_NIL = b"\xc0"

Kind = Literal["core", "rpc", "service", "node"]


@dataclass(slots=True)
class _Peer:
    """Who is at the other end of an endpoint."""

    kind: Kind
    name: str = ""
    """A node's name, or a service's once its `hello` was believed."""
    interfaces: tuple[str, ...] = ()
    endpoint: Endpoint = field(init=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """Who is to answer: an endpoint, or None for the core itself."""

    peer: _Peer | None
    method: str
    served_by: str


class _Hello(msgspec.Struct, forbid_unknown_fields=True):
    service: str
    token: str


class _Bind(msgspec.Struct, forbid_unknown_fields=True):
    interfaces: list[str]


class CallRouter:
    """The node's switchboard; see the module's docstring."""

    def __init__(
        self, *, node: str, core: Handlers, tasks: TaskGroup, rules: Rules, shared: SharedReader | None = None
    ) -> None:
        """Answer for *node*: its own interfaces by *core*, the rest by peers, as *rules* allow.

        Long bodies for the core itself or for another node are copied from *shared*.
        """
        self.node = node
        self._core = core
        self._tasks = tasks
        self._rules = rules
        self._whole = partial(whole, shared)
        self._services: dict[str, _Peer] = {}
        self._nodes: dict[str, _Peer] = {}
        self._core_name = f"{node}/{CORE}"

    def attach(self, name: str, channel: Channel, *, kind: Literal["service", "node"]) -> Endpoint:
        """Return the endpoint for a new connection; feed it, and close it when the connection is gone.

        For a node *name* is the one its key proves. For a host it only stands in messages until `hello`. Raises
        ValueError if that node is connected already.
        """
        peer = _Peer(kind, name if kind == "node" else "")
        if kind == "node":
            if self._open(self._nodes, name) is not None:
                raise ValueError(f"node {name!r} is connected already")
            self._nodes[name] = peer
        peer.endpoint = Endpoint(
            channel,
            accept=lambda endpoint, request, body: self._accept(peer, endpoint, request, body),
            tasks=self._tasks,
            name=name,
            max_in_flight=MAX_FROM_NODE if kind == "node" else MAX_IN_FLIGHT,
            outward=self._whole if kind == "node" else None,
        )
        return peer.endpoint

    def drop(self, service: str, reason: str = "gone") -> None:
        """Forget *service*, whose process has ended: its calls and those made to it end at once."""
        peer = self._services.pop(service, None)
        if peer is not None:
            peer.endpoint.close(reason)
            self._rules.on_bound(service, ())

    def detach(self, endpoint: Endpoint, reason: str = "gone") -> None:
        """Close *endpoint*, whose connection is gone; a service at its end serves nothing more."""
        endpoint.close(reason)
        for name, peer in self._services.items():
            if peer.endpoint is endpoint:
                self.drop(name, reason)
                return

    def bound(self) -> dict[str, tuple[str, ...]]:
        """Return the interfaces each connected service serves now."""
        return {name: peer.interfaces for name, peer in self._services.items() if not peer.endpoint.closed}

    def nodes(self) -> list[str]:
        """Return the names of the nodes connected now."""
        return [name for name, peer in self._nodes.items() if not peer.endpoint.closed]

    def locate(self, address: Address) -> tuple[str, str]:
        """Return the node that a call to *address* goes to, and the service there, empty if that is not known here."""
        if address.node and address.node != self.node:
            return address.node, address.service
        if address.service:
            return self.node, address.service
        try:
            return self.node, self._provider(address.interface)
        except CallError:  # whoever calls will be told; it would be the first that declares the interface
            return self.node, next(iter(self._rules.providers(address.interface)), "")

    async def call(
        self,
        call: Call,
        body: bytes,
        items: AsyncIterator[bytes] | None = None,
        *,
        kind: Literal["core", "rpc"] = "core",
    ) -> Result | AsyncIterator[bytes]:
        """Make a call from this process; return the encoded result or the stream. Raises CallError.

        *kind* is `rpc` for callers that are not the core itself.
        """
        address = parse_address(call.method)
        target = self._resolve(address, _Peer(kind, call.caller), privacy=call.privacy, hops=0)
        call = msgspec.structs.replace(call, method=target.method, node=self.node)
        if target.peer is None:
            return await self._call_core(call, body, items)
        hops = 1 if target.peer.kind == "node" else 0
        sent = OutgoingCall(target.peer.endpoint, msgspec.structs.replace(call, hops=hops), body, items)
        answer = await sent.answer()
        if isinstance(answer, ItemStream):
            answer.served_by = target.served_by or answer.served_by
            return answer
        return Result(self._whole(bytes(answer.body)), target.served_by or answer.served_by)

    async def _call_core(
        self, call: Call, body: bytes, items: AsyncIterator[bytes] | None
    ) -> Result | AsyncIterator[bytes]:
        deadline_s = min(call.deadline_s, MAX_DEADLINE_S)
        request = Request(
            0, call.method, deadline_s, call.privacy, call.trace, call.caller, call.node, call.credit, call.json
        )
        with anyio.move_on_after(deadline_s):
            result = await self._core.dispatch(request, body, items or _nothing())
            return Result(result, self._core_name) if isinstance(result, bytes) else result
        raise CallError(CallErrorKind.DEADLINE, f"{call.method}: no answer within {deadline_s:g} s")

    def _accept(self, peer: _Peer, endpoint: Endpoint, request: Request, body: bytes) -> Exchange:
        try:
            return self._begin(peer, endpoint, request, body)
        except CallError as error:
            if error.kind is CallErrorKind.DENIED and self._rules.witness is not None:
                self._rules.witness.refused(peer.kind, peer.name, request, body, str(error.data.get("rule", "")))
            raise

    def _begin(self, peer: _Peer, endpoint: Endpoint, request: Request, body: bytes) -> Exchange:
        address = parse_address(request.method)
        if peer.kind == "service" and not address.node and address.name in {HELLO, BIND}:
            self._admit(peer, address.name, body)
            return IncomingCall(endpoint, request, body, dispatch=_acknowledge, served_by=self._core_name)
        if not peer.name:
            raise CallError(CallErrorKind.DENIED, "this host is not known yet", rule=f"{HELLO} comes first")
        if peer.kind == "node":
            check_privacy(request.privacy, peer.name, same_site=self._rules.same_site(peer.name))
        request = self._stamp(peer, request)
        target = self._resolve(address, peer, privacy=request.privacy, hops=request.hops)
        if target.peer is None:
            body = self._whole(body)
        endpoint = self._watched(peer, endpoint, request, body, target)
        request = msgspec.structs.replace(request, method=target.method)
        if target.peer is None:
            return IncomingCall(endpoint, request, body, dispatch=self._core.dispatch, served_by=self._core_name)
        if target.peer.kind == "node":
            request = msgspec.structs.replace(request, node=self.node, hops=request.hops + 1)
        relay = Relay(endpoint, request.id, target.peer.endpoint, target.served_by)
        relay.start(request, body)
        return relay

    def _watched(self, peer: _Peer, endpoint: Endpoint, request: Request, body: bytes, target: _Target) -> Endpoint:
        """Return *endpoint*, or what stands for it in a call whose outcome the witness wants to know."""
        if self._rules.witness is None:
            return endpoint
        elsewhere = target.peer is not None and target.peer.kind == "node"
        service = "" if elsewhere else target.served_by.rpartition("/")[2]
        finish = self._rules.witness.began(peer.kind, peer.name, request, body, service)
        return endpoint if finish is None else Watched(endpoint, finish)

    def _stamp(self, peer: _Peer, request: Request) -> Request:
        """Return *request* with its true sender: what a peer claims of itself is at best a detail of it."""
        if peer.kind == "service":
            return msgspec.structs.replace(request, caller=peer.name, node=self.node, hops=0)
        claimed, hops = request.caller[:200], max(request.hops, 1)
        caller = claimed if hops > 1 else f"{peer.name}/{claimed}"
        return msgspec.structs.replace(request, caller=caller, node=peer.name, hops=hops)

    def _admit(self, peer: _Peer, method: str, body: bytes) -> None:
        """Believe a host's `hello` or `bind`, or raise CallError."""
        try:
            if method == HELLO:
                self._hello(peer, decode_body(_Hello, body))
            else:
                self._bind(peer, decode_body(_Bind, body).interfaces)
        except RemoteMessageError as error:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"{method}: {error}", field="") from None

    def _hello(self, peer: _Peer, hello: _Hello) -> None:
        if peer.name or not self._rules.verify(hello.service, hello.token):
            message = f"this host is not {hello.service!r}"
            raise CallError(CallErrorKind.DENIED, message, rule="each host has a token of its own, given at its start")
        self._rules.check_host(peer.endpoint, hello.service)
        self.drop(hello.service, "replaced by a newer process")
        peer.name = peer.endpoint.name = hello.service
        self._services[peer.name] = peer

    def _bind(self, peer: _Peer, interfaces: list[str]) -> None:
        for interface in interfaces or [""]:
            if not peer.name or (interface and peer.name not in self._rules.providers(interface)):
                message = f"service {peer.name!r} may not serve {interface!r}"
                raise CallError(CallErrorKind.DENIED, message, rule="a service serves what its manifest declares")
        peer.interfaces = tuple(interfaces)
        self._rules.on_bound(peer.name, peer.interfaces)

    def _resolve(self, address: Address, origin: _Peer, *, privacy: Privacy, hops: int) -> _Target:
        check_reserved(address, origin.kind)
        if address.node and address.node != self.node:
            return self._remote(address, origin, privacy=privacy, hops=hops)
        service = address.service or self._provider(address.interface)
        if origin.kind == "node":
            rule = self._rules.refuse_call(origin.name, service, address.interface, address.method)
            if rule is not None:
                message = f"node {origin.name!r} may not call {service}:{address.name}"
                raise CallError(CallErrorKind.DENIED, message, rule=rule)
        if service == CORE:
            return _Target(None, address.name, self._core_name)
        peer = self._open(self._services, service)
        if peer is None:
            raise self._rules.unavailable(service)
        if address.interface not in peer.interfaces and address.interface != "host":
            message = f"service {service!r} does not serve {address.interface!r}."
            raise CallError(CallErrorKind.UNKNOWN_METHOD, message + did_you_mean(address.interface, peer.interfaces))
        return _Target(peer, address.name, f"{self.node}/{service}")

    def _provider(self, interface: str) -> str:
        if interface in self._core.interfaces:
            return CORE
        declared = self._rules.providers(interface)
        bound = self.bound()
        for service in declared:
            if interface in bound.get(service, ()):
                return service
        if declared:
            raise self._rules.unavailable(declared[0])
        known = {name for names in bound.values() for name in names}.union(self._core.interfaces)
        message = f"no service of node {self.node!r} serves {interface!r}.{did_you_mean(interface, known)}"
        raise CallError(CallErrorKind.UNKNOWN_METHOD, message)

    def _remote(self, address: Address, origin: _Peer, *, privacy: Privacy, hops: int) -> _Target:
        if origin.kind == "node":
            rule = "one relay at the most" if hops > 1 else self._rules.refuse_relay(origin.name, address.node)
            if rule is not None:
                raise CallError(CallErrorKind.DENIED, f"{address} is not called through {self.node!r}", rule=rule)
        peer = self._open(self._nodes, address.node)
        method, same_site = address.on_node, self._rules.same_site
        if peer is None and hops == 0:
            peer, method = self._open(self._nodes, self._rules.via(address.node) or ""), str(address)
        if peer is None:
            message = f"node {address.node!r} is not connected"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="see the links in 'sparkctl status'")
        for node in {peer.name, address.node}:
            check_privacy(privacy, node, same_site=same_site(node))
        return _Target(peer, method, "")

    @staticmethod
    def _open(peers: dict[str, _Peer], name: str) -> _Peer | None:
        peer = peers.get(name)
        return None if peer is None or peer.endpoint.closed else peer


async def _acknowledge(request: Request, body: Buffer, items: AsyncIterator[Any]) -> bytes:  # noqa: ARG001 - a Dispatch
    return _NIL


async def _nothing() -> AsyncIterator[bytes]:
    """A stream without items, for a caller that sends none."""
    return
    yield b""
