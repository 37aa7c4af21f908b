"""WireGuard's files for a node: for wg-quick or networkd, and for `wg setconf`. Without any private key. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from sparkd.fleet.model import Fleet, alone, behind, endpoint


def files(fleet: Fleet, name: str) -> dict[str, str]:
    """Return WireGuard's files of a node by their paths; none if it is not in the tunnel."""
    if not fleet.nodes[name].tunnel_address:
        return {}
    interface = fleet.tunnel.interface
    found = {f"etc/wireguard/{interface}.setconf": _setconf(fleet, name)}
    if fleet.tunnel.setup == "networkd":
        found[f"etc/systemd/network/60-{interface}.netdev"] = _netdev(fleet, name)
        found[f"etc/systemd/network/60-{interface}.network"] = _network(fleet, name)
    else:
        found[f"etc/wireguard/{interface}.conf"] = _quick(fleet, name)
        found[f"etc/systemd/system/wg-quick@{interface}.service.d/sparkd-fleet.conf"] = _RELOAD.format(interface)
    return found


_RELOAD = """\
# A reload is `wg syncconf`, which takes away the private key that the file does not hold: it is set again.
[Service]
ExecReload=/usr/bin/wg set %i private-key /etc/wireguard/{}.key
"""


def _peers(fleet: Fleet, name: str) -> Iterator[list[tuple[str, str]]]:
    """Yield the keys and values of each peer; the first is its name."""
    tunnel = fleet.tunnel
    if name == tunnel.hub:
        lans = fleet.gateways()
        for spoke in fleet.spokes():
            allowed = [alone(fleet.nodes[spoke].tunnel_address), *([lans[spoke]] if spoke in lans else [])]
            yield [("", spoke), ("PublicKey", fleet.wireguard_keys[spoke]), ("AllowedIPs", ", ".join(allowed))]
        return
    peer = [
        ("", tunnel.hub),
        ("PublicKey", fleet.wireguard_keys[tunnel.hub]),
        ("Endpoint", endpoint(fleet, name) or ""),
        ("AllowedIPs", ", ".join([str(ipaddress.ip_network(tunnel.subnet)), *behind(fleet, name)])),
    ]
    yield [*peer, ("PersistentKeepalive", str(tunnel.keepalive_s))] if tunnel.keepalive_s else peer


def _address(fleet: Fleet, name: str) -> str:
    length = ipaddress.ip_network(fleet.tunnel.subnet).prefixlen
    return f"{fleet.nodes[name].tunnel_address}/{length}"


def _sections(fleet: Fleet, name: str, head: str) -> str:
    lines = []
    for (_, peer), *pairs in _peers(fleet, name):
        lines += ["", f"# {peer}", head, *(f"{key} = {value}" for key, value in pairs)]
    return "".join(f"{line}\n" for line in lines)


def _listen(fleet: Fleet, name: str) -> list[str]:
    return [f"ListenPort = {fleet.tunnel.port}"] if name == fleet.tunnel.hub else []


def _quick(fleet: Fleet, name: str) -> str:
    own = [
        f"# The private key is not here: /etc/wireguard/{fleet.tunnel.interface}.key, root's own, mode 0600.",
        "[Interface]",
        f"Address = {_address(fleet, name)}",
        *_listen(fleet, name),
        f"MTU = {fleet.tunnel.mtu}",
        "PostUp = wg set %i private-key /etc/wireguard/%i.key",
    ]
    return "".join(f"{line}\n" for line in own) + _sections(fleet, name, "[Peer]")


def _setconf(fleet: Fleet, name: str) -> str:
    interface = fleet.tunnel.interface
    own = [
        f"# For: wg setconf {interface} FILE && wg set {interface} private-key /etc/wireguard/{interface}.key",
        "[Interface]",
        *_listen(fleet, name),
    ]
    return "".join(f"{line}\n" for line in own) + _sections(fleet, name, "[Peer]")


def _netdev(fleet: Fleet, name: str) -> str:
    interface = fleet.tunnel.interface
    own = [
        "# The private key belongs to root:systemd-network, mode 0640.",
        "[NetDev]",
        f"Name = {interface}",
        "Kind = wireguard",
        f"MTUBytes = {fleet.tunnel.mtu}",
        "",
        "[WireGuard]",
        *_listen(fleet, name),
        f"PrivateKeyFile = /etc/wireguard/{interface}.key",
        "RouteTable = main",
    ]
    return "".join(f"{line}\n" for line in own) + _sections(fleet, name, "[WireGuardPeer]")


def _network(fleet: Fleet, name: str) -> str:
    return f"[Match]\nName = {fleet.tunnel.interface}\n\n[Network]\nAddress = {_address(fleet, name)}\n"
