"""What sparkd itself needs on a node: its config, the keys it trusts, and when it may start. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparkd.fleet.model import Fleet, endpoint, host_port, way
from sparkd.fleet.tables import FleetNode, Link
from sparkd.fleet.toml_text import toml_tables

_OWN = "# What only this node has, such as [access], goes into sparkd.d/: those files are laid over this one.\n"
WATCHDOG = "vpn-watchdog"
"""The plugin that watches what we render; that its table is as that plugin wants it, a test holds."""
_AFTER = """\
# sparkd listens on an address of the tunnel: that must be there first.
[Unit]
Wants={0}
After={0}
"""
_OF = {"wg-quick": "wg-quick@{}.service", "networkd": "sys-subsystem-net-devices-{}.device"}


def files(fleet: Fleet, name: str) -> dict[str, str]:
    """Return sparkd's files of a node by their paths; none for a router."""
    node = fleet.nodes[name]
    if not node.runs_sparkd:
        return {}
    found = {"etc/sparkd/sparkd.toml": _config(fleet, name, node)}
    for peer, _link, _dials in fleet.links_of(name):
        found[f"var/lib/sparkd/keys/trusted/{peer}.public"] = f"{fleet.link_keys[peer]}\n"
    if node.tunnel_address and node.tunnel_address in (_metrics_address(fleet, name), _link_address(node)):
        unit = _OF[fleet.tunnel.setup].format(fleet.tunnel.interface)
        found["etc/systemd/system/sparkd.service.d/sparkd-fleet.conf"] = _AFTER.format(unit)
    return found


def _config(fleet: Fleet, name: str, node: FleetNode) -> str:
    role = "cloud" if node.role == "cloud" else "edge"
    own: dict[str, Any] = {"name": name, "role": role, "site": node.site}
    metrics = _metrics_address(fleet, name)
    if fleet.prometheus and metrics:
        own["metrics_listen"] = host_port(metrics, fleet.prometheus.sparkd_port)
    parts = [_OWN + toml_tables("node", own)]
    if _link_address(node):
        parts.append(toml_tables("link", {"listen": host_port(_link_address(node), node.link_port)}))
    for peer, link, dials in fleet.links_of(name):
        parts.append(toml_tables(f"link.peers.{peer}", _peer(fleet, name, peer, link, dials=dials)))
    for plugin, table in sorted(node.plugins.items()):
        whole = _with_tunnel(fleet, name, table) if plugin == WATCHDOG and node.tunnel_address else table
        parts.append(toml_tables(f"plugins.{plugin}", whole))
    return "\n".join(parts)


def _with_tunnel(fleet: Fleet, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of the plugin that watches the tunnel with what the fleet knows: its peers, by their names.

    What the operator wrote goes before.
    """
    hub = fleet.tunnel.hub
    given = table.get("peers", {})
    peers = {}
    for peer in fleet.spokes() if name == hub else [hub]:
        known = {"public_key": fleet.wireguard_keys[peer], "probe": fleet.nodes[peer].tunnel_address}
        known |= {} if name == hub else {"endpoint": endpoint(fleet, name) or ""}
        peers[peer] = {**known, **given.get(peer, {})}
    known_of_all = {"interfaces": [fleet.tunnel.interface], "keepalive_s": fleet.tunnel.keepalive_s}
    return {**known_of_all, **table, "peers": {**given, **peers}}


def _metrics_address(fleet: Fleet, name: str) -> str:
    """Return the address at which Prometheus reads this node's metrics; empty for none."""
    if fleet.prometheus is None or not fleet.nodes[name].metrics:
        return ""
    found = way(fleet, fleet.prometheus.node, name)
    return found.address if found else ""


def _link_address(node: FleetNode) -> str:
    return node.address(node.link_on) if node.link_on else ""


def _peer(fleet: Fleet, name: str, peer: str, link: Link, *, dials: bool) -> dict[str, Any]:
    there = fleet.nodes[peer]
    table: dict[str, Any] = {}
    if dials:
        reached = way(fleet, name, peer, on=there.link_on or None)
        table["address"] = host_port(reached.address if reached else "", there.link_port)
    table["site"] = there.site
    send, receive, calls = (link.up, link.down, link.calls_down) if dials else (link.down, link.up, link.calls_up)
    return table | {key: value for key, value in (("send", send), ("receive", receive), ("calls", calls)) if value}
