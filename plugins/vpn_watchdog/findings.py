"""Finding out why a peer does not answer: everything that can be asked is asked at once."""

from __future__ import annotations

from functools import partial

import anyio

from .diagnosis import Evidence, Udp
from .interface import WatchedInterface
from .parts import Parts
from .track import Track
from .ways import Way, captive, host_answers, udp_at, way_to
from .wg import split_endpoint


async def gather(
    parts: Parts,
    iface: WatchedInterface,
    track: Track,
    *,
    name: str,
    dialled: bool,
) -> Evidence:
    """Return what is found out about the way to a peer, within some four seconds.

    Whether something comes from it, and what was tried in vain, is for the caller to add.
    """
    if iface.error:
        return Evidence(interface_missing=iface.error)
    target = track.endpoint
    resolved: tuple[str, ...] = ()
    caught = False

    async def ask_name() -> None:
        nonlocal resolved
        resolved = await parts.names.resolve(name) if name else ()

    async def ask_portal() -> None:
        nonlocal caught
        caught = bool(parts.config.captive_url) and await captive(parts.config.captive_url)

    ends = _Ends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_name)
        tasks.start_soon(ask_portal)
        if target:
            tasks.start_soon(partial(ends.ask, target, tuple(parts.config.interfaces), knock=dialled))
    return Evidence(
        dialled=dialled,
        endpoint=target,
        name=name,
        resolved=resolved,
        route=ends.way.route,
        out=ends.way.out,
        carrier=ends.way.carrier,
        captive=caught,
        udp=ends.udp,
        host=ends.host,
    )


class _Ends:
    """What is at the other end, and how one gets there."""

    def __init__(self) -> None:
        self.way = Way(route=True, carrier=True)
        self.udp: Udp = "unknown"
        self.host = False

    async def ask(self, endpoint: str, tunnels: tuple[str, ...], *, knock: bool) -> None:
        address, _ = split_endpoint(endpoint)
        self.way = await way_to(address, not_by=tunnels)
        if not self.way.carrier or not knock:  # behind a router nobody can be knocked at
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ask_port, endpoint)
            tasks.start_soon(self._ask_host, address)

    async def _ask_port(self, endpoint: str) -> None:
        self.udp = await udp_at(endpoint, out=self.way.out)

    async def _ask_host(self, address: str) -> None:
        self.host = await host_answers(address, out=self.way.out)
