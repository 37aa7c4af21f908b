"""What is wrong with a fleet as a whole: each check yields sentences with table, key, what was got, what to try."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Iterator

from sparkd.config import nearest
from sparkd.fleet.model import Fleet, endpoint, way
from sparkd.fleet.rules import ssh_from, zone_way
from sparkd.fleet.tables import ZONES, FleetNode
from sparkd.service import NAME


def check(fleet: Fleet) -> list[str]:
    """Return every problem. What stands on names that do not exist is judged only once they do."""
    named = [sentence for found in _OF_NAMES for sentence in found(fleet)]
    rest = [] if named else [sentence for found in _OF_WAYS for sentence in found(fleet)]
    return [f"{fleet.file}: {sentence}" for sentence in (*named, *rest)]


def _names(fleet: Fleet) -> Iterator[str]:
    if not fleet.nodes:
        yield "[nodes]: no node is described; write a table [nodes.NAME] for each machine"
    for name, node in fleet.nodes.items():
        if node.site not in fleet.sites:
            yield f"[nodes.{name}] site: unknown site {node.site!r}; {nearest(node.site, fleet.sites)}"
        for kind, names in (("services", node.services), ("plugins", node.plugins)):
            for found in names:
                if not NAME.fullmatch(found):
                    yield f"[nodes.{name}.{kind}] {found[:60]!r}: lower-case words joined by hyphens expected as a name"
        opened = [
            (f"[nodes.{name}.services.{own}] open_to", one)
            for own, port in node.services.items()
            for one in port.open_to
        ]
        opened += [(f"[nodes.{name}] ssh_from", one) for one in node.ssh_from or ()]
        yield from _known(fleet, opened)
    yield from _known(fleet, [("[firewall] ssh_from", one) for one in fleet.firewall.ssh_from])


def _known(fleet: Fleet, named: list[tuple[str, str]]) -> Iterator[str]:
    for where, one in named:
        if one not in ZONES and one not in fleet.nodes:
            yield f"{where}: unknown node or zone {one[:60]!r}; {nearest(one, [*ZONES, *fleet.nodes])}"


def _named_nodes(fleet: Fleet) -> Iterator[str]:
    wanted = [("[tunnel] hub", fleet.tunnel.hub)]
    wanted += [(f"[sites.{name}] gateway", site.gateway) for name, site in fleet.sites.items() if site.gateway]
    wanted += [("[prometheus] node", fleet.prometheus.node)] if fleet.prometheus else []
    for name, link in fleet.links.items():
        wanted += [(f"[links.{name}] listen", link.listen), *((f"[links.{name}] dial", one) for one in link.dial)]
    for where, one in wanted:
        if one not in fleet.nodes:
            yield f"{where}: unknown node {one[:60]!r}; {nearest(one, fleet.nodes)}"
        elif not fleet.nodes[one].runs_sparkd and not where.startswith("[sites"):
            yield f"{where}: {one} is a router, and cannot be that; name a node behind it"


def _twice(fleet: Fleet) -> Iterator[str]:
    """Addresses and keys that two have. A LAN's addresses count within its site."""
    seen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, node in sorted(fleet.nodes.items()):
        for ground in ("public", "tunnel", "lan"):
            if node.address(ground):
                at = f" at {node.site}" if ground == "lan" else ""
                seen[f"{ground}_address{at}", str(ipaddress.ip_address(node.address(ground)))].append(name)
    for (key, address), names in seen.items():
        if len(names) > 1:
            yield f"[nodes] {key}: {' and '.join(names)} have the same, {address}; give each its own"
    for kind, keys in (("wireguard_key", fleet.wireguard_keys), ("link_key", fleet.link_keys)):
        owners: dict[str, list[str]] = defaultdict(list)
        for name, key in sorted(keys.items()):
            owners[key].append(name)
        for names in owners.values():
            if len(names) > 1:
                yield f"[nodes] {kind}: {' and '.join(names)} have the same key; make each its own pair"


def _addresses(fleet: Fleet) -> Iterator[str]:
    subnet = ipaddress.ip_network(fleet.tunnel.subnet)
    for name, site in fleet.sites.items():
        if site.lan and ipaddress.ip_network(site.lan).overlaps(subnet):
            yield f"[sites.{name}] lan: {site.lan} overlaps the tunnel's {subnet}; one of them must change"
    for name, node in fleet.nodes.items():
        if node.tunnel_address and not _is_host(node.tunnel_address, fleet.tunnel.subnet):
            yield f"[nodes.{name}] tunnel_address: {node.tunnel_address} is no host of the tunnel's subnet {subnet}"
        lan = fleet.sites[node.site].lan
        if node.lan_address and not lan:
            yield f"[nodes.{name}] lan_address: the site {node.site} has no LAN; set [sites.{node.site}] lan"
        elif node.lan_address and not _is_host(node.lan_address, lan):
            yield f"[nodes.{name}] lan_address: {node.lan_address} is no host of {lan}, the LAN of {node.site}"
        if not any(node.address(ground) for ground in ("lan", "public", "tunnel")):
            yield f"[nodes.{name}]: it has no address at all; set lan_address, tunnel_address or public_address"


def _version(subnet: str) -> int:
    return ipaddress.ip_network(subnet).version


def _is_host(address: str, subnet: str) -> bool:
    ip, net = ipaddress.ip_address(address), ipaddress.ip_network(subnet)
    edges = (net.network_address, net.broadcast_address) if net.num_addresses > 2 else ()  # noqa: PLR2004 - a /31 has none
    return ip in net and ip not in edges


def _sites(fleet: Fleet) -> Iterator[str]:
    routed = [(name, ipaddress.ip_network(fleet.sites[name].lan)) for name in fleet.sites if fleet.routed(name)]
    for number, (name, lan) in enumerate(routed):
        for other, overlapping in routed[number + 1 :]:
            if lan.overlaps(overlapping):
                yield f"[sites.{other}] lan: {overlapping} overlaps that of {name}, and both reach the tunnel"
    for name, site in fleet.sites.items():
        routers = [one for one, node in fleet.nodes.items() if node.role == "router" and node.site == name]
        if len(routers) > 1:
            yield f"[sites.{name}]: {' and '.join(sorted(routers))} are both its router; one can be"
        if not site.gateway:
            continue
        gateway = fleet.nodes[site.gateway]
        if gateway.site != name or not gateway.tunnel_address or not gateway.lan_address or not gateway.runs_sparkd:
            yield (
                f"[sites.{name}] gateway: {site.gateway} must be a node of this site with lan_address and "
                "tunnel_address, and no router"
            )
        if site.lan and _version(site.lan) != _version(fleet.tunnel.subnet):
            yield (
                f"[sites.{name}] gateway: the LAN is IPv{_version(site.lan)} and the tunnel "
                f"IPv{_version(fleet.tunnel.subnet)}: packets cannot go from one to the other; take the gateway away"
            )
        if not site.lan:
            yield f"[sites.{name}] gateway: there is no LAN to carry; set lan"


def _tunnel(fleet: Fleet) -> Iterator[str]:
    hub = fleet.tunnel.hub
    if not fleet.nodes[hub].tunnel_address:
        yield f"[tunnel] hub: {hub} has no tunnel_address"
    for name in fleet.spokes():
        if not fleet.nodes[name].runs_sparkd:
            yield f"[nodes.{name}] tunnel_address: the router is not in the tunnel; its packets go to the gateway"
        elif endpoint(fleet, name) is None:
            site = fleet.nodes[hub].site
            yield (
                f"[nodes.{name}]: no way to the hub {hub}; give the hub a public_address, or set [sites.{site}] public "
                f"and describe the router of {site}, which forwards UDP {fleet.tunnel.port}"
            )


def _links(fleet: Fleet) -> Iterator[str]:
    pairs: dict[frozenset[str], str] = {}
    dialed = set()
    for name, link in sorted(fleet.links.items()):
        here = f"[links.{name}]"
        if not link.dial:
            yield f"{here} dial: nobody dials, and {link.listen} only listens; name the nodes that dial"
        for dialer in link.dial:
            pair = frozenset((dialer, link.listen))
            if dialer == link.listen:
                yield f"{here} dial: {dialer} would dial itself"
            elif pair in pairs:
                yield f"{here} dial: {dialer} and {link.listen} are linked by [links.{pairs[pair]}], too; join them"
            pairs.setdefault(pair, name)
        dialed.add(link.listen)
        yield from _heard(fleet, here, link.listen, link.dial)
    for name, node in fleet.nodes.items():
        if node.link_on and name not in dialed:
            yield f"[nodes.{name}] link_on: it listens, and nobody dials it; add a link, or take link_on away"


def _heard(fleet: Fleet, here: str, listener: str, dialers: list[str]) -> Iterator[str]:
    """Whether those who dial reach the address that is listened on."""
    node = fleet.nodes[listener]
    if not node.link_on:
        yield f"{here} listen: {listener} does not listen; set [nodes.{listener}] link_on to lan, tunnel or public"
        return
    if not node.address(node.link_on):
        yield f"[nodes.{listener}] link_on: it listens on {node.link_on}, and has no {node.link_on}_address"
        return
    for dialer in dialers:
        if dialer != listener and way(fleet, dialer, listener, on=node.link_on) is None:
            yield (
                f"{here} dial: {dialer} does not reach {listener}, which listens on {node.address(node.link_on)} "
                f"({node.link_on}) only; give {dialer} an address there, or change link_on"
            )


def _ports(fleet: Fleet) -> Iterator[str]:
    for name, node in fleet.nodes.items():
        taken: dict[tuple[str, int], list[str]] = defaultdict(list)
        taken["tcp", fleet.firewall.ssh_port].append("ssh")
        if name == fleet.tunnel.hub:
            taken["udp", fleet.tunnel.port].append("WireGuard")
        if node.link_on:
            taken["tcp", node.link_port].append("the link")
        if fleet.prometheus and node.metrics and node.runs_sparkd:
            taken["tcp", fleet.prometheus.sparkd_port].append("sparkd's metrics")
        for service, port in node.services.items():
            if (service, port.port) != ("ssh", fleet.firewall.ssh_port):
                taken[port.protocol, port.port].append(service)
        for (protocol, number), users in taken.items():
            if len(users) > 1:
                yield f"[nodes.{name}.services]: {' and '.join(users)} all use {protocol} port {number}; change one"


def _unreached(fleet: Fleet) -> Iterator[str]:
    """Services that are open to somebody who does not get there; metrics that nobody can read; no way to log in."""
    for name, node in fleet.nodes.items():
        for service, port in node.services.items():
            for source in port.open_to:
                if not _reached(fleet, name, source):
                    yield (
                        f"[nodes.{name}.services.{service}] open_to: nobody reaches {name} from {source!r}; "
                        f"it has {_grounds(node)}"
                    )
        if node.runs_sparkd and not any(_reached(fleet, name, source) for source in ssh_from(fleet, node)):
            yield f"[nodes.{name}] ssh_from: nobody could log in to it any more; it has {_grounds(node)}"
        watcher = fleet.prometheus
        scraped = (node.runs_sparkd and node.metrics) or any(port.metrics_path for port in node.services.values())
        if watcher and scraped and way(fleet, watcher.node, name) is None:
            yield (
                f"[nodes.{name}] metrics: {watcher.node}, which reads them, does not reach it: it has "
                f"{_grounds(node)}; give it a tunnel_address, its site a gateway, or set metrics = false"
            )


def _reached(fleet: Fleet, name: str, source: str) -> bool:
    return (zone_way(fleet, name, source) if source in ZONES else way(fleet, source, name)) is not None


def _grounds(node: FleetNode) -> str:
    found = [ground for ground in ("lan", "tunnel", "public") if node.address(ground)]
    return f"addresses of: {', '.join(found)}" if found else "no address"


_Check = Callable[[Fleet], Iterator[str]]
_OF_NAMES: tuple[_Check, ...] = (_names, _named_nodes)
_OF_WAYS: tuple[_Check, ...] = (_twice, _addresses, _sites, _tunnel, _links, _ports, _unreached)
