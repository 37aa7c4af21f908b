"""The repairs themselves. Each says what it did and how to take it back, or that there was nothing to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sparkd import CallError, DeviceError, MachineApi

from .access import PRIV_LIMIT_S
from .interface import WatchedInterface
from .parts import Parts

Undo = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a repair is for."""

    parts: Parts
    iface: WatchedInterface
    key: str
    endpoint: str
    """Where WireGuard sends to now."""
    name: str
    """The endpoint as the config has it; empty if it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A repair that was made."""

    detail: str
    undo: Undo | None = None
    keep: bool = True
    """Whether it stays if it does not help, as long as it makes nothing worse."""


async def re_resolve(target: Target) -> Made | None:
    """Follow the endpoint's name to where it leads now. Nothing to do if that is where WireGuard sends already."""
    if not target.name:
        return None
    found = await target.parts.names.resolve(target.name)
    if not found or target.endpoint in found:
        return None
    fresh = _alike(found, target.endpoint)
    wg, old = target.parts.wg, target.endpoint
    await wg.set_endpoint(target.iface.name, target.key, fresh)
    undo = (lambda: wg.set_endpoint(target.iface.name, target.key, old)) if old else None
    return Made(detail=f"{target.name} is {fresh} now, it was {old or 'unknown'}", undo=undo)


def _alike(found: tuple[str, ...], old: str) -> str:
    """Return the first of *found* that is of the same IP version as *old*."""
    six = old.startswith("[")
    return next((one for one in found if one.startswith("[") is six), found[0]) if old else found[0]


async def reset_peer(target: Target) -> Made:
    """Begin the session anew."""
    return Made(detail=await target.parts.wg.reset_peer(target.iface.name, target.key))


async def new_port(target: Target) -> Made:
    """Send from another port: routers on the way make a new mapping. The old port comes back if that does not help."""
    wg, old = target.parts.wg, target.iface.listen_port
    target.iface.port_at = target.parts.now()
    said = await wg.set_listen_port(target.iface.name, 0)
    undo = (lambda: wg.set_listen_port(target.iface.name, old)) if old else None
    return Made(detail=f"{said}, it was {old or 'unknown'}", undo=undo, keep=False)


async def restart_interface(target: Target) -> Made:
    """Have whoever keeps the interface take it down and up."""
    target.iface.restarted_at = target.parts.now()
    target.iface.vanished_by_us = True  # until it is seen again
    machine = target.parts.ctx.call(MachineApi, deadline_s=PRIV_LIMIT_S)
    try:
        return Made(detail=await machine.restart_interface(interface=target.iface.name))
    except CallError as error:
        raise DeviceError(error.message, remedy=str(error.data.get("remedy", ""))) from None


DEEDS: dict[str, Callable[[Target], Awaitable[Made | None]]] = {
    "re-resolve": re_resolve,
    "reset-peer": reset_peer,
    "new-port": new_port,
    "restart-interface": restart_interface,
}
