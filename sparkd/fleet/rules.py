"""Who may reach what on a node: rules as values, from which each firewall's own text is written. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparkd.fleet.model import Fleet, Way, way
from sparkd.fleet.tables import ZONES, FleetNode


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Lets packets in. An empty `source` is anybody, an empty `target` any address of the machine."""

    protocol: str
    port: int
    source: str
    target: str
    interface: str
    what: str
    """For people: what it is, and for whom."""


@dataclass(frozen=True, slots=True, order=True)
class Pass:
    """Lets a gateway carry packets from one network to another; a port of 0 is any."""

    source: str
    target: str
    protocol: str
    port: int
    what: str


def incoming(fleet: Fleet, name: str) -> list[Rule]:
    """Return the rules of a node, sorted."""
    node, firewall = fleet.nodes[name], fleet.firewall
    found: set[Rule] = set()
    if name == fleet.tunnel.hub:
        found.add(Rule("udp", fleet.tunnel.port, "", "", "", "WireGuard"))
    for source, entry in _ways(fleet, name, ssh_from(fleet, node)):
        found.add(_rule("tcp", firewall.ssh_port, entry, f"ssh from {source}"))
    for peer, _link, dials in fleet.links_of(name):
        entry_way = None if dials else way(fleet, peer, name, on=node.link_on or None)
        if entry_way is not None:
            found.add(_rule("tcp", node.link_port, entry_way, f"link from {peer}"))
    found |= set(_scraped(fleet, name, node))
    for service, port in node.services.items():
        for source, entry in _ways(fleet, name, port.open_to):
            found.add(_rule(port.protocol, port.port, entry, f"{service} from {source}"))
    return sorted(found)


def _scraped(fleet: Fleet, name: str, node: FleetNode) -> Iterator[Rule]:
    watcher = fleet.prometheus
    entry = None if watcher is None or watcher.node == name else way(fleet, watcher.node, name)
    if watcher is None or entry is None:
        return
    if node.runs_sparkd and node.metrics:
        yield _rule("tcp", watcher.sparkd_port, entry, f"metrics from {watcher.node}")
    for service, port in node.services.items():
        if port.metrics_path:
            yield _rule("tcp", port.port, entry, f"{service} metrics from {watcher.node}")


def _rule(protocol: str, port: int, entry: Way, what: str) -> Rule:
    return Rule(protocol, port, entry.source, entry.address, entry.interface, what)


def ssh_from(fleet: Fleet, node: FleetNode) -> Sequence[str]:
    """Return who may log in to *node*."""
    return fleet.firewall.ssh_from if node.ssh_from is None else node.ssh_from


def _ways(fleet: Fleet, name: str, sources: Sequence[str]) -> Iterator[tuple[str, Way]]:
    for source in sources:
        entry = zone_way(fleet, name, source) if source in ZONES else way(fleet, source, name)
        if entry is not None:
            yield source, entry


def zone_way(fleet: Fleet, name: str, zone: str) -> Way | None:
    """Return how everybody in *zone* reaches a node; None if nobody there does."""
    node = fleet.nodes[name]
    site = fleet.sites[node.site]
    if zone == "anywhere":
        return Way("", "")
    if zone == "lan":
        return Way(node.lan_address, site.lan) if site.lan and node.lan_address else None
    if node.tunnel_address:
        return Way(node.tunnel_address, fleet.tunnel.subnet, fleet.tunnel.interface)
    return Way(node.lan_address, fleet.tunnel.subnet) if fleet.routed(node.site) and node.lan_address else None


def carries(fleet: Fleet, name: str) -> bool:
    """Whether a node passes on packets of others: the hub, and the gateways."""
    return name == fleet.tunnel.hub or name in fleet.gateways()


def passing(fleet: Fleet, name: str) -> list[Pass]:
    """Return what the hub or a gateway carries, sorted; what is not here and concerns the tunnel, it does not."""
    subnet, found = fleet.tunnel.subnet, set()
    lans = fleet.gateways()
    if name == fleet.tunnel.hub:
        found.add(Pass(subnet, subnet, "", 0, "nodes in the tunnel"))
        for gateway, lan in lans.items():
            if gateway != name:
                found.add(Pass(lan, subnet, "", 0, f"LAN behind {gateway}"))
                found.add(Pass(subnet, lan, "", 0, f"LAN behind {gateway}, whose gateway chooses"))
    if name in lans:
        found.add(Pass(lans[name], subnet, "", 0, "this LAN into the tunnel"))
        found |= {
            Pass(lans[name], lan, "", 0, f"this LAN to that behind {other}")
            for other, lan in lans.items()
            if other != name
        }
        site = fleet.nodes[name].site
        for inner in sorted(fleet.nodes):
            node = fleet.nodes[inner]
            if node.site == site and node.lan_address and inner != name:
                found |= set(_from_tunnel(fleet, inner, node))
    return sorted(found)


def _from_tunnel(fleet: Fleet, name: str, node: FleetNode) -> Iterator[Pass]:
    """Yield what comes from the tunnel to a node of the LAN: as its own firewall has it."""
    lan = ipaddress.ip_network(fleet.sites[node.site].lan)
    for rule in incoming(fleet, name):
        local = not rule.source or ipaddress.ip_network(rule.source).network_address in lan
        if rule.target == node.lan_address and not local:
            yield Pass(rule.source, rule.target, rule.protocol, rule.port, f"{name}: {rule.what}")
