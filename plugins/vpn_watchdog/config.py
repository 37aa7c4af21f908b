"""What an operator may set in `[plugins.vpn-watchdog]`."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from sparkd import POWER_MODES, REPAIR_STEPS

from .public_name import PublicNameConfig

_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9_.-]*):([0-9]{1,5})")


def _interfaces() -> list[str]:
    return ["wg0"]


def _steps() -> list[str]:
    return list(REPAIR_STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """The table `[plugins.vpn-watchdog.peers.NAME]`: what WireGuard itself does not know of a peer."""

    public_key: str
    endpoint: str = ""
    """`host:port` it is dialled at; the name is asked for again when it does not answer. Empty: it dials us, or the
    endpoint that WireGuard has is for ever."""
    probe: str = ""
    """Its address in the tunnel, or `none`; empty: the one address among its allowed IPs, if there is just one."""
    probe_port: int = 9
    """Where a TCP probe knocks; an answer of "nobody here" is an answer."""
    asleep_modes: list[str] = field(default_factory=list)
    """The power modes (of the peer's node, of this node or its site) in which it is switched off on purpose."""
    may_sleep: bool = False
    """Whether it may go away without a word, as a laptop does: then it is asleep, not down."""

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.public_key):
            raise ValueError("public_key: 44 characters of base64 expected, as `wg show` prints them")
        found = _ENDPOINT.fullmatch(self.endpoint)
        if self.endpoint and not (found and 0 < int(found[2]) < 1 << 16):
            raise ValueError(f"endpoint: 'name:51820' or '[2001:db8::1]:51820' expected, got {self.endpoint!r}")
        if self.probe not in ("", "none"):
            ipaddress.ip_address(self.probe)
        if not 0 < self.probe_port < 1 << 16:
            raise ValueError(f"probe_port: 1 to 65535 expected, got {self.probe_port}")
        for mode in self.asleep_modes:
            if mode not in POWER_MODES:
                raise ValueError(f"asleep_modes: known are {', '.join(POWER_MODES)}; got {mode!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VpnWatchdogConfig:
    """The table `[plugins.vpn-watchdog]`. Times are counted on a clock that nobody sets."""

    interfaces: list[str] = field(default_factory=_interfaces)
    """The WireGuard interfaces that are watched, with all their peers."""
    peers: dict[str, PeerConfig] = field(default_factory=dict)
    """What is known of peers, by the names they are called here."""
    via: Literal["auto", "direct", "priv"] = "auto"
    """Who runs `wg`: sparkd-priv, or this service itself; `auto`: itself if it has the right to (CAP_NET_ADMIN)."""
    wg: Path = Path("/usr/bin/wg")
    """The program, where the service runs it itself."""
    interval_s: float = 5.0
    """Between two probes of a peer."""
    probe: Literal["auto", "icmp", "tcp"] = "auto"
    """`auto`: ICMP if the kernel lets this user (sysctl net.ipv4.ping_group_range), else TCP."""
    probe_timeout_s: float = 1.0
    """For the first three packets of a probe; then follow ..."""
    probe_burst: int = 6
    """... so many at the most. If none is answered, the probe failed; the second that fails is a loss."""
    suspect_s: float = 135.0
    """Of a peer that cannot be probed: an older handshake is in doubt (WireGuard makes one each 120 s) ..."""
    stale_s: float = 180.0
    """... and one older than this is no longer valid (REJECT_AFTER_TIME)."""
    keepalive_s: int = 25
    """What a peer's keepalive should be that this machine dials; 0: whatever it is."""
    set_keepalive: bool = False
    """Set it, if it is not, instead of only saying so."""
    repair: bool = True
    steps: list[str] = field(default_factory=_steps)
    """The repairs that may be made."""
    repairs_per_hour: int = 12
    """Of each peer, at the most."""
    settle_s: float = 6.0
    """How long a repair has to show that it helped."""
    backoff_s: float = 60.0
    """Wait after all steps were tried in vain; twice as long after each time more ..."""
    backoff_most_s: float = 1800.0
    """... but never longer."""
    resolver: str = ""
    """The DNS server that is asked for endpoints' names; empty: those of the system. Set it where they are behind the
    tunnel themselves."""
    captive_url: str = ""
    """An `http://` address that answers 204 where the internet is open; empty: nobody is asked."""
    quality_s: float = 30.0
    """Between two events about the quality of a link."""
    path_mtu_s: float = 600.0
    """Between two measurements of the path MTU; 0 for never. Packets of the size found go with every second probe."""
    throughput_s: float = 900.0
    """Between two measurements of the throughput, by 16 packets each; 0 for never."""
    clock_step_s: float = 30.0
    """A jump of the wall clock that is worth saying."""
    public_name: PublicNameConfig = field(default_factory=PublicNameConfig)
    """On the hub: the name that others dial, kept when the address of this home changes."""

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            zero = key in ("keepalive_s", "path_mtu_s", "throughput_s")
            if type(value) in (int, float) and not (value >= 0 and (value > 0 or zero) and math.isfinite(value)):
                raise ValueError(f"{key}: must be a positive number, got {value}")
        for name in self.interfaces:
            if not _INTERFACE.fullmatch(name):
                raise ValueError(f"interfaces: a network interface's name expected, got {name!r}")
        for step in self.steps:
            if step not in REPAIR_STEPS:
                raise ValueError(f"steps: known are {', '.join(REPAIR_STEPS)}; got {step!r}")
        if self.suspect_s > self.stale_s:
            raise ValueError(f"suspect_s: must be below stale_s, got {self.suspect_s} and {self.stale_s}")
        if self.resolver:
            ipaddress.ip_address(self.resolver)
        if self.captive_url and not self.captive_url.startswith("http://"):
            raise ValueError(f"captive_url: an http:// address expected, got {self.captive_url!r}")
        self._check_peers()

    def _check_peers(self) -> None:
        keys: dict[str, str] = {}
        for name, peer in self.peers.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"peers.{name}: lower-case letters, digits, - and _ expected")
            if peer.public_key in keys:
                raise ValueError(f"peers.{name}: has the key of {keys[peer.public_key]}")
            keys[peer.public_key] = name
