"""Configuration: typed tables from TOML, every problem named at once, secrets by name, folders from systemd or XDG."""

from __future__ import annotations

from sparkd.config.access import (
    WITH_TOPICS,
    AccessConfig,
    AccessRule,
    CallPattern,
    group_id,
    parse_pattern,
    user_id,
)
from sparkd.config.decode import decode_table, nearest
from sparkd.config.load import changed_plugins, find_config, load_config, needs_restart, read_toml, take_over
from sparkd.config.places import Places, find_socket, load_places, make, node_id, places
from sparkd.config.schema import config_schema, secret_keys
from sparkd.config.show import show
from sparkd.config.tables import (
    AuditConfig,
    BusConfig,
    Config,
    LinkConfig,
    LogsConfig,
    NodeConfig,
    OutboxConfig,
    PeerConfig,
    PluginTable,
    RecorderConfig,
    RpcConfig,
)
from sparkd.config.unit_table import SPEC_CREDENTIAL, UnitTable
from sparkd.config.write import table_text, write_drop_in
from sparkd.secret import Secret

__all__ = [
    "SPEC_CREDENTIAL",
    "WITH_TOPICS",
    "AccessConfig",
    "AccessRule",
    "AuditConfig",
    "BusConfig",
    "CallPattern",
    "Config",
    "LinkConfig",
    "LogsConfig",
    "NodeConfig",
    "OutboxConfig",
    "PeerConfig",
    "Places",
    "PluginTable",
    "RecorderConfig",
    "RpcConfig",
    "Secret",
    "UnitTable",
    "changed_plugins",
    "config_schema",
    "decode_table",
    "find_config",
    "find_socket",
    "group_id",
    "load_config",
    "load_places",
    "make",
    "nearest",
    "needs_restart",
    "node_id",
    "parse_pattern",
    "places",
    "read_toml",
    "secret_keys",
    "show",
    "table_text",
    "take_over",
    "user_id",
    "write_drop_in",
]
