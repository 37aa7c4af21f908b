"""What the router must be told by those who know: config, link, supervisor. Values and callbacks, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparkd.calls.address import Address
from sparkd.calls.witness import Witness
from sparkd.errors import CallError, CallErrorKind
from sparkd.privacy import Privacy


def _refuse_call(peer: str, service: str, interface: str, method: str) -> str | None:  # noqa: ARG001 - a default
    return f"no rule lets node {peer!r} call anything here"


def _refuse_relay(peer: str, node: str) -> str | None:
    return f"no rule lets node {peer!r} reach {node!r} through this one"


def _not_running(service: str) -> CallError:
    message = f"service {service!r} is not running"
    return CallError(CallErrorKind.UNAVAILABLE, message, remedy="see 'sparkctl status'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The defaults let nobody in and find nobody; what is not given is refused."""

    verify: Callable[[str, str], bool] = lambda _service, _token: False
    """Whether the token proves that a host is the service it says it is."""
    providers: Callable[[str], Sequence[str]] = lambda _interface: ()
    """The services that declare an interface, in config order: the first that is bound answers."""
    unavailable: Callable[[str], CallError] = _not_running
    """The answer for a service that is declared but not here now: why, and what to do."""
    refuse_call: Callable[[str, str, str, str], str | None] = _refuse_call
    """The rule by which a remote node may not call (peer, service, interface, method); None if it may."""
    refuse_relay: Callable[[str, str], str | None] = _refuse_relay
    """The rule by which a remote node may not reach another node through this one; None if it may."""
    same_site: Callable[[str], bool] = lambda _node: False
    """Whether a node stands at the same site."""
    via: Callable[[str], str | None] = lambda _node: None
    """The connected node through which one that is not connected may be reached."""
    check_host: Callable[[object, str], None] = lambda _endpoint, _service: None
    """Told of a host whose token was right, with the service it is then; raises CallError if it may not be that."""
    witness: Witness | None = None
    """Told of the calls of services and nodes."""
    on_bound: Callable[[str, tuple[str, ...]], None] = lambda _service, _interfaces: None
    """Told when a service serves other interfaces than before."""


RESERVED = {"host": "core", "supervisor": "service", "outbox-host": "service"}
"""Interfaces between the core and its hosts, and the only kind of origin that may call each."""


def check_reserved(address: Address, kind: str) -> None:
    """Raise CallError (`DENIED`) if *address* is between core and host, and the caller is neither."""
    only = RESERVED.get(address.interface)
    if only is not None and kind != only:
        message = f"{address.name} is between the core and its hosts"
        raise CallError(CallErrorKind.DENIED, message, rule=f"only the {only} may call {address.interface!r}")


def check_privacy(privacy: Privacy, node: str, *, same_site: bool) -> None:
    """Raise CallError (`DENIED`) if a call of class *privacy* may not pass between this node and *node*."""
    if not privacy.may_reach(same_node=False, same_site=same_site):
        where = "same site" if same_site else "another site"
        message = f"a call of privacy class {privacy.label!r} may not pass between this node and {node!r}"
        raise CallError(CallErrorKind.DENIED, message, rule=f"privacy: {node!r} stands at {where}", node=node)
