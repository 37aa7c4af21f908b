"""The rules of a node in the words of nftables and of ufw. Pure."""

from __future__ import annotations

import ipaddress

from sparkd.fleet.model import Fleet
from sparkd.fleet.rules import Pass, Rule, carries, incoming, passing


def files(fleet: Fleet, name: str) -> dict[str, str]:
    """Return the firewall's files of a node: take one of the two, not both."""
    found = {"etc/nftables.d/sparkd-fleet.nft": _nft(fleet, name), "etc/ufw/sparkd-fleet.sh": _ufw(fleet, name)}
    if carries(fleet, name):
        kind = "ipv4.ip_forward" if _family(fleet.tunnel.subnet) == "ip" else "ipv6.conf.all.forwarding"
        found["etc/sysctl.d/60-sparkd-fleet.conf"] = _FORWARD.format(kind)
    return found


_FORWARD = """\
# This node carries packets of others between the tunnel and its LAN.
net.{} = 1
"""
_NFT_HEAD = """\
# Its own table, which replaces what an older version of it said and touches nothing else. In /etc/nftables.conf:
#   include "/etc/nftables.d/*.nft"
add table inet sparkd_fleet
delete table inet sparkd_fleet

table inet sparkd_fleet {
"""
_NFT_INPUT = """\
    ct state established,related accept
    ct state invalid drop
    iifname "lo" accept
    meta l4proto { icmp, ipv6-icmp } accept
    udp sport 67 udp dport 68 accept comment "DHCP"
    udp sport 547 udp dport 546 accept comment "DHCPv6"
"""


def _nft(fleet: Fleet, name: str) -> str:
    lines = [
        "  chain input {",
        "    type filter hook input priority filter; policy drop;",
        *_NFT_INPUT.splitlines(),
        *(f"    {_nft_rule(rule)}" for rule in incoming(fleet, name)),
        "  }",
    ]
    if carries(fleet, name):
        wg = fleet.tunnel.interface
        lines += [
            "",
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            f'    iifname "{wg}" jump tunnel',
            f'    oifname "{wg}" jump tunnel',
            "  }",
            "",
            "  chain tunnel {",
            "    ct state established,related accept",
            *(f"    {_nft_pass(rule)}" for rule in passing(fleet, name)),
            "    drop",
            "  }",
        ]
    return _NFT_HEAD + "".join(f"{line}\n" for line in lines) + "}\n"


def _family(address: str) -> str:
    return "ip" if ipaddress.ip_network(address).version == 4 else "ip6"  # noqa: PLR2004 - IPv4


def _nft_addresses(source: str, target: str) -> list[str]:
    words = [f"{_family(source)} saddr {source}"] if source else []
    return words + ([f"{_family(target)} daddr {target}"] if target else [])


def _nft_rule(rule: Rule) -> str:
    words = [f'iifname "{rule.interface}"'] if rule.interface else []
    words += _nft_addresses(rule.source, rule.target)
    return " ".join([*words, f'{rule.protocol} dport {rule.port} accept comment "{_short(rule.what)}"'])


def _nft_pass(rule: Pass) -> str:
    port = [f"{rule.protocol} dport {rule.port}"] if rule.port else []
    return " ".join([*_nft_addresses(rule.source, rule.target), *port, f'accept comment "{_short(rule.what)}"'])


def _short(what: str) -> str:
    """Return a comment that nft takes: 128 bytes with its end."""
    return what[:120]


_UFW_HEAD = """\
# Once, as root. Rules that are there already are left as they are; `ufw status numbered` and `ufw delete N` take away
# what an older version of this file said. It does not turn ufw on: `ufw enable`.
set -eu
ufw default deny incoming
ufw default allow outgoing
"""


def _ufw(fleet: Fleet, name: str) -> str:
    lines = [_ufw_rule(rule) for rule in incoming(fleet, name)]
    if carries(fleet, name):
        lines += ["ufw default deny routed", *(_ufw_pass(rule) for rule in passing(fleet, name))]
    return _UFW_HEAD + "".join(f"{line}\n" for line in lines)


def _ufw_rule(rule: Rule) -> str:
    inward = f" in on {rule.interface}" if rule.interface else ""
    who = f"from {rule.source or 'any'} to {rule.target or 'any'} port {rule.port} proto {rule.protocol}"
    return f"ufw allow{inward} {who} comment '{_word(rule.what)}'"


def _ufw_pass(rule: Pass) -> str:
    port = f" port {rule.port} proto {rule.protocol}" if rule.port else ""
    return f"ufw route allow from {rule.source} to {rule.target}{port} comment '{_word(rule.what)}'"


def _word(what: str) -> str:
    """Return a comment that ufw takes: it finds its own words, such as "in", within comments too."""
    return what.replace(" ", "-")
