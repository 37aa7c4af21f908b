"""The tables of `fleet.toml`: frozen dataclasses, units in the names, each checked when it is made.

What concerns one table alone is checked here; what concerns several is in `sparkd.fleet.checks`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sparkd.config import PeerConfig

MAX_PORT = 65_535
MAX_TEXT = 100
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""What the kernel and every tool we write for take (IFNAMSIZ is 16 with its end)."""
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""https://prometheus.io/docs/concepts/data_model/"""
PLAIN = re.compile(r"[\w ./:@+-]*")
"""Text that no tool we write for takes for syntax."""
OWN_LABELS = frozenset({"node", "site", "role", "job", "instance"})
ZONES = ("lan", "tunnel", "anywhere")

Ground = Literal["lan", "tunnel", "public"]
"""One of a node's addresses."""


def check_port(key: str, port: int) -> None:
    """Raise ValueError unless *port* is one."""
    if not 0 < port <= MAX_PORT:
        raise ValueError(f"{key}: 1 to {MAX_PORT} expected, got {port}")


def check_ip(key: str, address: str) -> None:
    """Raise ValueError unless *address* is empty or one address, without a mask."""
    if not address:
        return
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{key}: an IP address expected, such as '10.8.0.2', got {address[:60]!r}") from None


def check_subnet(key: str, subnet: str) -> None:
    """Raise ValueError unless *subnet* is empty or a network."""
    if not subnet:
        return
    try:
        ipaddress.ip_network(subnet)
    except ValueError as error:
        raise ValueError(
            f"{key}: a network expected, such as '10.8.0.0/24', got {subnet[:60]!r} ({_reason(error)})"
        ) from None


def _reason(error: ValueError) -> str:
    return "bits behind the mask are set" if "host bits" in str(error) else "not a network"


def check_plain(key: str, text: str) -> None:
    """Raise ValueError if *text* is long, or has characters that some tool takes for syntax."""
    if len(text) > MAX_TEXT or not PLAIN.fullmatch(text):
        raise ValueError(f"{key}: up to {MAX_TEXT} letters, digits, blanks and ./:@+- expected")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """A key by the name of its file, beside the fleet file unless the path is absolute."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """`[fleet]`: the fleet as a whole."""

    name: str = "fleet"
    keys_dir: str = "fleet-keys"
    """Public keys, one a file: NAME.wireguard.pub and NAME.link.pub."""

    def __post_init__(self) -> None:
        check_plain("name", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """`[sites.NAME]`: a place where nodes stand."""

    lan: str = ""
    """The network that its nodes share; empty if they share none."""
    public: str = ""
    """The name or address by which its router is reached from outside."""
    gateway: str = ""
    """The node that carries this LAN's packets into the tunnel and back, for nodes that are not in it."""

    def __post_init__(self) -> None:
        check_subnet("lan", self.lan)
        if self.public and not HOST.fullmatch(self.public):
            check_ip("public", self.public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """`[tunnel]`: WireGuard, a hub and its spokes."""

    hub: str
    subnet: str = "10.8.0.0/24"
    port: int = 51_820
    interface: str = "wg0"
    mtu: int = 1420
    keepalive_s: int = 25
    setup: Literal["wg-quick", "networkd"] = "wg-quick"

    def __post_init__(self) -> None:
        check_subnet("subnet", self.subnet)
        if not self.subnet:
            raise ValueError("subnet: a network expected, such as '10.8.0.0/24'")
        check_port("port", self.port)
        if not INTERFACE.fullmatch(self.interface):
            raise ValueError(f"interface: up to 15 letters, digits and _.- expected, got {self.interface[:60]!r}")
        if not 1280 <= self.mtu <= 9000:  # noqa: PLR2004 - what IPv6 asks for at the least; a jumbo frame
            raise ValueError(f"mtu: 1280 to 9000 expected, got {self.mtu}")
        if not 0 <= self.keepalive_s <= MAX_PORT:
            raise ValueError(f"keepalive_s: 0 (never) to {MAX_PORT} expected, got {self.keepalive_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """`[firewall]`: what holds for all nodes."""

    ssh_port: int = 22
    ssh_from: list[str] = field(default_factory=lambda: ["lan", "tunnel"])

    def __post_init__(self) -> None:
        check_port("ssh_port", self.ssh_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """`[prometheus]`: who reads metrics, and how often."""

    node: str
    interval_s: int = 15
    sparkd_port: int = 9464

    def __post_init__(self) -> None:
        check_port("sparkd_port", self.sparkd_port)
        if not 1 <= self.interval_s <= 3600:  # noqa: PLR2004 - an hour
            raise ValueError(f"interval_s: 1 to 3600 expected, got {self.interval_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """`[nodes.NAME.services.NAME]`: a program that listens there, of sparkd's or any other."""

    port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    open_to: list[str] = field(default_factory=list)
    """Names of nodes, or `lan`, `tunnel`, `anywhere`; nobody but the machine itself if empty."""
    metrics_path: str = ""
    """Where Prometheus reads its metrics; empty if it has none."""

    def __post_init__(self) -> None:
        check_port("port", self.port)
        check_plain("metrics_path", self.metrics_path)
        if self.metrics_path and not self.metrics_path.startswith("/"):
            raise ValueError(f"metrics_path: a path such as '/metrics' expected, got {self.metrics_path!r}")
        if self.metrics_path and self.protocol != "tcp":
            raise ValueError("metrics_path: Prometheus speaks tcp, and this port is udp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """`[nodes.ROUTER.sqm]`: smart queues on the router's line. What was measured, unshaped."""

    interface: str
    download_kbit: int
    upload_kbit: int
    percent: float = 90.0
    """How much of the measured rate is used: 80 to 95, so that the queue forms here and not in the modem."""
    link: Literal["none", "ethernet", "atm"] = "ethernet"
    overhead_bytes: int = 44

    def __post_init__(self) -> None:
        if not INTERFACE.fullmatch(self.interface):
            raise ValueError(f"interface: up to 15 letters, digits and _.- expected, got {self.interface[:60]!r}")
        for key in ("download_kbit", "upload_kbit"):
            if not 0 < getattr(self, key) <= 10**8:
                raise ValueError(f"{key}: 1 to 100000000 kbit/s expected, got {getattr(self, key)}")
        if not 50 <= self.percent <= 100:  # noqa: PLR2004 - beyond 100 nothing is shaped
            raise ValueError(f"percent: 50 to 100 expected, got {self.percent:g}")
        if not -64 <= self.overhead_bytes <= 256:  # noqa: PLR2004 - what tc-stab takes
            raise ValueError(f"overhead_bytes: -64 to 256 expected, got {self.overhead_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNode:
    """`[nodes.NAME]`: a machine."""

    site: str
    role: Literal["edge", "cloud", "nas", "router"] = "edge"
    lan_address: str = ""
    public_address: str = ""
    tunnel_address: str = ""
    """Empty for a node that is not in the tunnel."""
    wireguard_key: str | KeyFile | None = None
    """Its public key, or the file that holds it; by default NAME.wireguard.pub in the keys' folder."""
    link_key: str | KeyFile | None = None
    """The same of sparkd's link; by default NAME.link.pub."""
    link_on: Literal["", "lan", "tunnel", "public"] = ""
    """The address its link listens on; empty for a node that only dials."""
    link_port: int = 7700
    metrics: bool = True
    """Whether Prometheus reads sparkd's metrics here."""
    ssh_from: list[str] | None = None
    """By default as `[firewall]` says."""
    labels: dict[str, str] = field(default_factory=dict)
    """What Prometheus adds to all metrics of this node."""
    services: dict[str, Port] = field(default_factory=dict)
    plugins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What sparkd runs there: each table becomes [plugins.NAME] of its config."""
    sqm: Shaping | None = None

    def __post_init__(self) -> None:
        for key in ("lan_address", "public_address", "tunnel_address"):
            check_ip(key, getattr(self, key))
        check_port("link_port", self.link_port)
        for name, value in self.labels.items():
            if not LABEL.fullmatch(name) or name.startswith("__") or name in OWN_LABELS:
                own = ", ".join(sorted(OWN_LABELS))
                raise ValueError(f"labels: letters, digits and _ expected, none of {own}; got {name[:60]!r}")
            check_plain(f"labels.{name}", value)
        if self.sqm and self.role != "router":
            raise ValueError(f"sqm: only a router shapes traffic, and this is role = {self.role!r}")
        if self.role == "router" and self.plugins:
            raise ValueError("plugins: no sparkd runs on a router")

    @property
    def runs_sparkd(self) -> bool:
        """Whether the daemon runs there."""
        return self.role != "router"

    def address(self, ground: Ground) -> str:
        """Return the address of that kind; empty if it has none."""
        found: str = getattr(self, f"{ground}_address")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """`[links.NAME]`: nodes that dial another, and what may pass. `up` is from who dials to who listens."""

    dial: list[str]
    listen: str
    up: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    calls_up: list[str] = field(default_factory=list)
    """Methods that the nodes which dial may call on the one that listens."""
    calls_down: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key in ("up", "down"):
            _as_peer(key, "send", getattr(self, key))
        for key in ("calls_up", "calls_down"):
            _as_peer(key, "calls", getattr(self, key))


def _as_peer(key: str, theirs: str, values: Sequence[str]) -> None:
    """Raise ValueError unless a table of a peer takes *values*."""
    made: Mapping[str, Any] = {theirs: list(values)}
    try:
        PeerConfig(**made)
    except ValueError as error:
        raise ValueError(f"{key}: {str(error).partition(': ')[2]}") from None
