"""The tables of `sparkd.toml`: frozen dataclasses, units in the names, each checked when it is made."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from sparkd.config.access import AccessConfig
from sparkd.config.unit_table import UnitTable
from sparkd.events import TOPIC
from sparkd.needs import parse_need
from sparkd.service import NAME, EnergyClass, Isolation

_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})")
MAX_PORT = 65_535
_METHODS = re.compile(r"[a-z0-9-]+\.([a-z0-9_]+|\*)")


def host_name() -> str:
    """Return this machine's name as a node name: lower-case words joined by hyphens."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")
    return name if NAME.fullmatch(name) else f"node-{name}".rstrip("-")


def check_address(key: str, address: str) -> None:
    """Raise ValueError unless *address* is `host:port`."""
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match[2]) <= MAX_PORT:
        raise ValueError(f"{key}: host:port expected, such as '127.0.0.1:7700', got {address!r}")


def check_name(key: str, name: str) -> None:
    """Raise ValueError unless *name* is lower-case words joined by hyphens."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{key}: lower-case words joined by hyphens expected, got {name!r}")


def check_range(key: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless *value* lies between *low* and *high*."""
    if not low <= value <= high:
        raise ValueError(f"{key}: {low:g} to {high:g} expected, got {value:g}")


def check_flood(key: str, messages_per_s: float | None, bytes_per_s: float | None) -> None:
    """Raise ValueError unless these bounds of a publisher are 0, None, or let something through."""
    if messages_per_s:
        check_range(f"{key}_messages_per_s", messages_per_s, 1, 1e9)
    if bytes_per_s:
        check_range(f"{key}_bytes_per_s", bytes_per_s, 1 << 10, 1e12)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[node]`: who this node is."""

    name: str = field(default_factory=host_name)
    role: Literal["edge", "cloud"] = "edge"
    site: str = "home"
    """Nodes of one site may share data of the privacy class `local`."""
    inline: list[str] = field(default_factory=list)
    """Installed plugins that may run inside the core, where their failure is the core's."""
    plugin_dirs: list[Path] = field(default_factory=list)
    """Drop-in folders besides the one next to the config."""
    runtime_dir: Path | None = None
    state_dir: Path | None = None
    cache_dir: Path | None = None
    metrics_listen: str = "127.0.0.1:9464"
    """host:port for Prometheus; empty for none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    priv_socket: Path = Path("/run/sparkd-priv/priv.sock")
    """Where sparkd-priv listens, which starts services of the isolation `unit`."""

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("site", self.site)
        if self.metrics_listen:
            check_address("metrics_listen", self.metrics_listen)


@dataclass(frozen=True, slots=True, kw_only=True)
class BusConfig:
    """`[bus]`: the event bus."""

    high_water_messages: int = 10_000
    """Messages queued per peer before the bus drops, and counts."""
    queue_max_bytes: int = 64 << 20
    """Memory that the daemon's queues may take before it cuts off readers that do not read."""
    flood_messages_per_s: float = 20_000.0
    """What one service may publish; beyond it transient events are dropped, and counted. 0 for no bound."""
    flood_bytes_per_s: float = 67_108_864.0
    """The same in bytes of events, without what goes through shared memory."""
    shm_max_bytes: int = 64 << 20
    """Shared memory of all services together for events and calls over 64 KiB; one may have half. 0 for none."""
    readers_group: str = ""
    """Members of this group may subscribe, besides the daemon's own user and root."""

    def __post_init__(self) -> None:
        check_range("high_water_messages", self.high_water_messages, 10, 10_000_000)
        check_range("queue_max_bytes", self.queue_max_bytes, 4 << 20, 1 << 40)
        if self.shm_max_bytes:
            check_range("shm_max_bytes", self.shm_max_bytes, 1 << 20, 1 << 40)
        check_flood("flood", self.flood_messages_per_s, self.flood_bytes_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcConfig:
    """`[rpc]`: the JSON-RPC socket."""

    max_line_bytes: int = 1 << 20
    max_connections: int = 256
    line_timeout_s: float = 10.0
    """How long a request line may take from its first byte to its last."""
    admin_group: str = "sparkd"
    """Members may change things, as root and the daemon's own user may."""
    readers: Literal["anyone", "admins"] = "admins"
    """Who may call methods that change nothing: `anyone` on this machine, or admins only."""

    def __post_init__(self) -> None:
        check_range("max_line_bytes", self.max_line_bytes, 1024, 64 << 20)
        check_range("max_connections", self.max_connections, 1, 10_000)
        check_range("line_timeout_s", self.line_timeout_s, 0.1, 3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxConfig:
    """`[outbox]`: the durable streams of each service."""

    max_bytes: int = 1 << 30
    """Of one stream; beyond it the oldest records go, and are counted."""
    max_age_s: float = 0.0
    """0 for no limit."""
    segment_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        check_range("max_bytes", self.max_bytes, 1 << 20, 1 << 50)
        check_range("max_age_s", self.max_age_s, 0, 10 * 365 * 86_400)
        check_range("segment_bytes", self.segment_bytes, 1 << 18, 16 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsConfig:
    """`[logs]`: the log on disk, besides the one that systemd keeps."""

    max_bytes: int = 16 << 20
    """0 for none."""

    def __post_init__(self) -> None:
        if self.max_bytes:
            check_range("max_bytes", self.max_bytes, 1 << 16, 1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    """`[recorder]`: the flight recorder."""

    enabled: bool = True
    ring_bytes: int = 1 << 20
    """Memory for the last minutes, second by second."""
    disk_max_bytes: int = 100 << 20
    """Disk for what was before, minute by minute."""

    def __post_init__(self) -> None:
        check_range("ring_bytes", self.ring_bytes, 1 << 16, 64 << 20)
        check_range("disk_max_bytes", self.disk_max_bytes, 1 << 20, 1 << 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """`[audit]`: the trail of calls that changed something, or were refused."""

    max_bytes: int = 16 << 20
    """0 for none."""
    leave_out: list[str] = field(default_factory=lambda: ["ingest.append"])
    """Methods whose calls get no line when they are allowed: those that carry records, which are stored anyway."""

    def __post_init__(self) -> None:
        if self.max_bytes:
            check_range("max_bytes", self.max_bytes, 1 << 16, 1 << 40)
        for method in self.leave_out:
            if not _METHODS.fullmatch(method):
                raise ValueError(f"leave_out: 'interface.method' or 'interface.*' expected, got {method!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """`[link.peers.NAME]`: another node. Its key is not written here: `sparkctl keys trust NAME KEY`."""

    address: str = ""
    """host:port to dial; empty if the peer dials us."""
    site: str = ""
    """The site the peer stands at; only then may it get data of the privacy class `local`."""
    send: list[str] = field(default_factory=list)
    """Topics this node sends it, and what is beneath them."""
    receive: list[str] = field(default_factory=list)
    """Topics it may send us."""
    calls: list[str] = field(default_factory=list)
    """Methods it may call here, such as `node.status` or `ingest.*`."""

    def __post_init__(self) -> None:
        if self.address:
            check_address("address", self.address)
        if self.site:
            check_name("site", self.site)
        for key in ("send", "receive"):
            for topic in getattr(self, key):
                if not TOPIC.fullmatch(topic):
                    raise ValueError(f"{key}: topics such as 'edge.telemetry' expected, got {topic!r}")
        for method in self.calls:
            if not _METHODS.fullmatch(method):
                raise ValueError(f"calls: 'interface.method' or 'interface.*' expected, got {method!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """`[link]`: the encrypted connections to other nodes."""

    listen: str = ""
    """host:port; empty for a node that only dials."""
    max_message_bytes: int = 1 << 20
    heartbeat_s: float = 5.0
    peers: dict[str, PeerConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.listen:
            check_address("listen", self.listen)
        check_range("max_message_bytes", self.max_message_bytes, 1 << 16, 64 << 20)
        check_range("heartbeat_s", self.heartbeat_s, 0.1, 600)
        for name in self.peers:
            check_name(f"peers.{name}", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginTable:
    """`[plugins.NAME]`: what the core reads of it; `table` is the plugin's own part, checked in its process.

    All services of a plugin share its table.
    """

    enabled: bool = True
    isolation: Isolation | None = None
    energy: EnergyClass | None = None
    critical: bool = False
    """Whether a change of config or drop-ins that makes it fail is taken back."""
    health_window_s: float = 60.0
    """How long it must run after a change, if it is critical, until the change is known to be good."""
    start_limit_s: float | None = None
    watchdog_s: float = 10.0
    """How long its event loop may leave a ping unanswered before it is restarted; 0 for ever."""
    needs: list[str] = field(default_factory=list)
    """What must be there before it starts, besides what it says itself; see `sparkd.needs`."""
    stop_without_needs: bool = False
    """Whether it is stopped when something it needs goes away; it starts again when that is back."""
    memory_max_bytes: int = 0
    """What each of its services may hold; 0 for no limit. Without a control group its address space is limited."""
    cpu_max_percent: float = 0.0
    """Of one processor, for each of its services; 0 for no limit."""
    open_files_max: int = 0
    """Descriptors that each of its services may have; 0 for no limit of its own."""
    tasks_max: int = 0
    """Threads and processes of each of its services; 0 for no limit."""
    publish_messages_per_s: float | None = None
    """What each of its services may publish, instead of what `[bus] flood_messages_per_s` says."""
    publish_bytes_per_s: float | None = None
    unit: UnitTable = field(default_factory=UnitTable)
    """What it gets if its isolation is `unit`."""
    table: dict[str, Any] = field(default_factory=dict)
    origin: str = field(default="", compare=False)
    """The files the table comes from, for messages."""
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """The file of each key, for messages; a key of a table within has a dotted name."""

    def __post_init__(self) -> None:
        if self.start_limit_s is not None:
            check_range("start_limit_s", self.start_limit_s, 0.1, 3600)
        for need in self.needs:
            parse_need(need)
        check_range("watchdog_s", self.watchdog_s, 0, 3600)
        check_range("health_window_s", self.health_window_s, 1, 86_400)
        check_range("memory_max_bytes", self.memory_max_bytes, 0, 1 << 50)
        if self.cpu_max_percent:
            check_range("cpu_max_percent", self.cpu_max_percent, 1, 100_000)
        if self.open_files_max:
            check_range("open_files_max", self.open_files_max, 32, 1 << 20)
        if self.tasks_max:
            check_range("tasks_max", self.tasks_max, 8, 1 << 20)
        check_flood("publish", self.publish_messages_per_s, self.publish_bytes_per_s)


PLUGIN_KEYS = frozenset(f.name for f in fields(PluginTable)) - {"table", "origin", "origins"}
"""What every plugin's table may hold besides the plugin's own keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that was configured."""

    node: NodeConfig = field(default_factory=NodeConfig)
    bus: BusConfig = field(default_factory=BusConfig)
    rpc: RpcConfig = field(default_factory=RpcConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    link: LinkConfig = field(default_factory=LinkConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    plugins: dict[str, PluginTable] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    """The files it was read from."""
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """The file that each key was last set in, such as `node.name`; a key that is not here has its default."""
