"""What an OpenWrt router of the fleet needs, as UCI that `uci import` merges into what is there. Pure.

Every section has a name of its own, so that importing again changes the same sections and adds none.
"""

from __future__ import annotations

import ipaddress

from sparkd.fleet.model import Fleet, behind
from sparkd.fleet.tables import Shaping

Options = dict[str, str]
_HOW = "# On the router: uci -m import < sparkd-fleet.uci && uci commit && reload_config && /etc/init.d/sqm restart\n"


def files(fleet: Fleet, name: str) -> dict[str, str]:
    """Return the file of a router; none for other nodes."""
    if fleet.nodes[name].role != "router":
        return {}
    packages = {"firewall": _firewall(fleet, name), "network": _routes(fleet, name), "sqm": _sqm(fleet, name)}
    written = "\n".join(_package(package, sections) for package, sections in packages.items() if sections)
    return {"sparkd-fleet.uci": _HOW + written}


def _firewall(fleet: Fleet, name: str) -> list[tuple[str, str, Options]]:
    hub = fleet.nodes[fleet.tunnel.hub]
    if hub.site != fleet.nodes[name].site or not hub.lan_address or hub.public_address:
        return []
    forward = {
        "name": f"WireGuard to {fleet.tunnel.hub}",
        "target": "DNAT",
        "family": "any" if ":" in hub.lan_address else "ipv4",
        "proto": "udp",
        "src": "wan",
        "src_dport": str(fleet.tunnel.port),
        "dest": "lan",
        "dest_ip": hub.lan_address,
        "dest_port": str(fleet.tunnel.port),
    }
    return [("redirect", "sparkd_wireguard", forward)]


def _routes(fleet: Fleet, name: str) -> list[tuple[str, str, Options]]:
    site = fleet.nodes[name].site
    if not fleet.routed(site):
        return []
    gateway = fleet.nodes[fleet.sites[site].gateway].lan_address
    targets = [fleet.tunnel.subnet, *behind(fleet, name)]
    return [
        (
            "route" if ipaddress.ip_network(target).version == 4 else "route6",  # noqa: PLR2004 - IPv4
            f"sparkd_route_{number}",
            {"interface": "lan", "target": target, "gateway": gateway},
        )
        for number, target in enumerate(targets)
    ]


def _sqm(fleet: Fleet, name: str) -> list[tuple[str, str, Options]]:
    wanted = fleet.nodes[name].sqm
    return [("queue", "sparkd_wan", _queue(wanted))] if wanted else []


def _queue(wanted: Shaping) -> Options:
    link = {} if wanted.link == "none" else {"overhead": str(wanted.overhead_bytes)}
    return {
        "enabled": "1",
        "interface": wanted.interface,
        "download": str(int(wanted.download_kbit * wanted.percent / 100)),
        "upload": str(int(wanted.upload_kbit * wanted.percent / 100)),
        "qdisc": "cake",
        "script": "piece_of_cake.qos",
        "linklayer": wanted.link,
        **link,
    }


def _package(package: str, sections: list[tuple[str, str, Options]]) -> str:
    lines = [f"package {package}"]
    for kind, name, options in sections:
        lines += ["", f"config {kind} '{name}'", *(f"\toption {key} '{value}'" for key, value in options.items())]
    return "".join(f"{line}\n" for line in lines)
