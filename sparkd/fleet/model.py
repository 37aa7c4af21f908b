"""A fleet as a whole, and how its nodes reach each other. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.fleet.tables import Firewall, FleetNode, Ground, Link, Naming, Prometheus, Site, Tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All that the fleet file says, with its keys found."""

    file: Path
    naming: Naming
    sites: Mapping[str, Site]
    tunnel: Tunnel
    firewall: Firewall
    prometheus: Prometheus | None
    nodes: Mapping[str, FleetNode]
    links: Mapping[str, Link]
    wireguard_keys: Mapping[str, str] = field(default_factory=dict)
    """The public key of each node, by its name."""
    link_keys: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    """Twelve hex digits that change whenever what is said changes; comments and the order of tables do not count."""

    def router_of(self, site: str) -> str | None:
        """Return the router of *site*."""
        return next((name for name, node in self.nodes.items() if node.role == "router" and node.site == site), None)

    def routed(self, site: str) -> bool:
        """Whether the LAN of *site* reaches the tunnel, and is reached from it."""
        found = self.sites.get(site)
        return found is not None and bool(found.lan and found.gateway)

    def gateways(self) -> dict[str, str]:
        """Return the LAN that each gateway carries into the tunnel, by the gateway's name."""
        return {site.gateway: site.lan for name, site in self.sites.items() if self.routed(name)}

    def spokes(self) -> list[str]:
        """Return the nodes in the tunnel, without the hub."""
        return sorted(name for name, node in self.nodes.items() if node.tunnel_address and name != self.tunnel.hub)

    def links_of(self, name: str) -> list[tuple[str, Link, bool]]:
        """Return each link of a node: the peer, the link, and whether the node dials. Sorted by peer."""
        found = [(link.listen, link, True) for link in self.links.values() if name in link.dial]
        found += [(peer, link, False) for link in self.links.values() if link.listen == name for peer in link.dial]
        return sorted(found, key=lambda entry: entry[0])


@dataclass(frozen=True, slots=True)
class Way:
    """How one node reaches another."""

    address: str
    """Of the one that is reached."""
    source: str
    """What the other is seen as; empty if nobody can say, behind a router."""
    interface: str = ""
    """By which interface its packets come in, where that is certain."""


def way(fleet: Fleet, source: str, target: str, *, on: Ground | None = None) -> Way | None:
    """Return how *source* reaches *target*, on a given address of it or the best; None if it cannot.

    The best is the LAN they share, then the tunnel, then the LAN behind a gateway, then the public address.
    """
    here, there = fleet.nodes[source], fleet.nodes[target]
    if source == target:
        own = there.address(on) if on else there.tunnel_address or there.lan_address or there.public_address
        return Way(own, own) if own else None
    tries = {
        "lan": (_by_shared_lan, _by_gateway),
        "tunnel": (_by_tunnel,),
        "public": (_by_public,),
        None: (_by_shared_lan, _by_tunnel, _by_gateway, _by_public),
    }
    for attempt in tries[on]:
        found = attempt(fleet, here, there)
        if found is not None:
            return found
    return None


def _by_shared_lan(_fleet: Fleet, here: FleetNode, there: FleetNode) -> Way | None:
    if here.site == there.site and here.lan_address and there.lan_address:
        return Way(there.lan_address, here.lan_address)
    return None


def _by_tunnel(fleet: Fleet, here: FleetNode, there: FleetNode) -> Way | None:
    if not there.tunnel_address:
        return None
    if here.tunnel_address:
        return Way(there.tunnel_address, here.tunnel_address, fleet.tunnel.interface)
    if not fleet.routed(here.site) or not here.lan_address:
        return None
    is_gateway = fleet.nodes[fleet.sites[here.site].gateway] is there
    return Way(there.tunnel_address, here.lan_address, "" if is_gateway else fleet.tunnel.interface)


def _by_gateway(fleet: Fleet, here: FleetNode, there: FleetNode) -> Way | None:
    if here.tunnel_address and there.lan_address and here.site != there.site and fleet.routed(there.site):
        return Way(there.lan_address, here.tunnel_address)
    return None


def _by_public(_fleet: Fleet, here: FleetNode, there: FleetNode) -> Way | None:
    return Way(there.public_address, here.public_address) if there.public_address else None


def endpoint(fleet: Fleet, spoke: str) -> str | None:
    """Return host:port at which *spoke* reaches the hub; None if it cannot."""
    hub, node = fleet.nodes[fleet.tunnel.hub], fleet.nodes[spoke]
    if hub.site == node.site and hub.lan_address and node.lan_address:
        return host_port(hub.lan_address, fleet.tunnel.port)
    if hub.public_address:
        return host_port(hub.public_address, fleet.tunnel.port)
    site = fleet.sites.get(hub.site)
    if site is not None and site.public and hub.lan_address and fleet.router_of(hub.site):
        return host_port(site.public, fleet.tunnel.port)
    return None


def host_port(host: str, port: int) -> str:
    """Return what is dialed, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def behind(fleet: Fleet, node: str) -> list[str]:
    """Return the networks that *node*, a spoke, reaches through the hub, besides the tunnel's own."""
    site = fleet.nodes[node].site
    found = [fleet.sites[name].lan for name in fleet.sites if fleet.routed(name) and name != site]
    return sorted(found)


def alone(address: str) -> str:
    """Return the network that holds *address* only."""
    return str(ipaddress.ip_network(address))
