"""Reading `sparkd.toml` and its drop-ins into one `Config`."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparkd.config.access import AccessConfig
from sparkd.config.decode import decode_table, nearest
from sparkd.config.tables import (
    PLUGIN_KEYS,
    AuditConfig,
    BusConfig,
    Config,
    LinkConfig,
    LogsConfig,
    NodeConfig,
    OutboxConfig,
    PluginTable,
    RecorderConfig,
    RpcConfig,
)
from sparkd.errors import ConfigError
from sparkd.service import NAME

FILE_NAME = "sparkd.toml"
SWITCHES = "switches"
"""The folder beside the config that the daemon may write to."""
MAX_FILE_BYTES = 4 << 20
MAX_DEPTH = 32
"""Of tables within tables: what is nested deeper could not be shown or sent to a plugin."""
_CORE = {
    "node": NodeConfig,
    "bus": BusConfig,
    "rpc": RpcConfig,
    "access": AccessConfig,
    "link": LinkConfig,
    "outbox": OutboxConfig,
    "logs": LogsConfig,
    "recorder": RecorderConfig,
    "audit": AuditConfig,
}
_LIVE_RPC = ("rpc.readers", "rpc.admin_group")
"""Keys of `[rpc]` that a running daemon takes over."""
Origins = dict[str, str]


def find_config(given: Path | None = None) -> Path | None:
    """Return the config file to read: *given*, else the usual one, else None. Raises ConfigError if *given* lacks."""
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"{given}: no such file")
        return given
    usual = [Path(folder) for folder in os.environ.get("CONFIGURATION_DIRECTORY", "").split(":") if folder]
    usual.append(Path("/etc/sparkd"))
    usual.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sparkd")
    return next((folder / FILE_NAME for folder in usual if _is_file(folder / FILE_NAME)), None)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except PermissionError:  # /etc/sparkd may be closed to a user who runs a node of their own
        return False


def load_config(path: Path | None, *, switches: bool = True) -> Config:
    """Return the config in *path* and in `sparkd.d/*.toml` beside it. Raises ConfigError with every problem.

    With *switches* the daemon's own are laid over it, from `switches/*.toml`: which plugins are enabled, nothing else.
    """
    problems: list[str] = []
    tables: dict[str, Any] = {}
    origins: Origins = {}
    files = [] if path is None else [path, *_drop_ins(path.parent / "sparkd.d")]
    files += _drop_ins(path.parent / SWITCHES) if path is not None and switches else []
    for file in files:
        try:
            found = read_toml(file)
        except ConfigError as error:
            problems += error.problems
        else:
            problems += _strays(found, str(file))
            if file.parent.name == SWITCHES:
                problems += _no_switches(found, str(file))
            problems += _overlay(tables, found, origins, str(file))
    main = str(path or "")
    made: dict[str, Any] = {}
    for name, cls in _CORE.items():
        try:
            made[name] = decode_table(
                cls, tables.get(name, {}), where=name, origins=_beneath(origins, name), file=origins.get(name, main)
            )
        except ConfigError as error:
            problems += error.problems
    made["plugins"] = _plugins(tables.get("plugins", {}), origins, problems, main)
    if problems:
        raise ConfigError(*problems)
    return Config(**made, files=tuple(files), origins=origins)


def _drop_ins(folder: Path) -> list[Path]:
    """Return the drop-ins of *folder* in order; an editor's hidden files are none."""
    return sorted(file for file in folder.glob("*.toml") if not file.name.startswith("."))


def _strays(found: dict[str, Any], file: str) -> list[str]:
    """Take out of *found* what has no place at the top of a config, and return a sentence for each."""
    problems = []
    known = [*_CORE, "plugins"]
    for name in list(found):
        if not isinstance(found[name], dict):
            what = f"[{name}]: a table expected" if name in known else f"{name}: a key outside of a table"
            problems.append(f"{file}: {what}; {nearest(name, known)}")
        elif name not in known:
            problems.append(f"{file}: [{name}]: unknown table; {nearest(name, known)}")
        else:
            continue
        del found[name]
    return problems


def _no_switches(found: dict[str, Any], file: str) -> list[str]:
    """Take out of *found* what is no switch of a plugin; return a sentence for each. The daemon's user writes here."""
    problems = [f"{file}: [{name}] has no place here, only switches of plugins" for name in found if name != "plugins"]
    kept = {}
    for name, table in found.get("plugins", {}).items():
        if isinstance(table, dict) and table.keys() == {"enabled"} and isinstance(table["enabled"], bool):
            kept[name] = table
        else:
            problems.append(f"{file}: [plugins.{name}]: only enabled = true or false has a place here")
    found.clear()
    found["plugins"] = kept
    return problems


def read_toml(file: Path) -> dict[str, Any]:
    """Return what stands in *file*. Raises ConfigError that says what is wrong with it, never what it holds."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as opened:  # noqa: PTH123 - a descriptor: a pipe must not hold us
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise ConfigError(f"{file}: not a file")
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_FILE_BYTES} bytes")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply") from None


def _overlay(
    below: dict[str, Any], above: Mapping[str, Any], origins: Origins, file: str, *, path: str = "", depth: int = 0
) -> list[str]:
    """Lay *above* over *below*: tables are merged, everything else is replaced. *origins* learns the file of each key.

    A table's own origin is the first file that has it. Returns a sentence for each table that is too deep.
    """
    if depth > MAX_DEPTH:
        return [f"{file}: [{path[:60]}…]: nested too deeply"]
    problems = []
    for key, value in above.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            held = below.get(key)
            if not isinstance(held, dict):
                held = below[key] = {}
                origins[name] = file
            problems += _overlay(held, value, origins, file, path=name, depth=depth + 1)
        else:
            below[key] = value
            origins[name] = file
    return problems


def _beneath(origins: Origins, table: str) -> Origins:
    """Return the origins of the keys of *table*, by their names within it."""
    return {name.removeprefix(f"{table}."): file for name, file in origins.items() if name.startswith(f"{table}.")}


def _plugins(tables: Mapping[str, Any], origins: Origins, problems: list[str], main: str) -> dict[str, PluginTable]:
    made = {}
    for name, table in tables.items():
        where = f"plugins.{name}"
        first = origins.get(where, main)
        if not NAME.fullmatch(name):
            problems.append(f"{first}: [{where}]: a plugin's name is lower-case words joined by hyphens")
            continue
        if not isinstance(table, Mapping):
            problems.append(f"{first}: [{where}]: a table expected")
            continue
        core = {key: value for key, value in table.items() if key in PLUGIN_KEYS}
        own = {key: value for key, value in table.items() if key not in PLUGIN_KEYS}
        inner = _beneath(origins, where)
        try:
            head = decode_table(PluginTable, core, where=where, origins=inner, file=first)
        except ConfigError as error:
            problems += error.problems
        else:
            files = ", ".join(dict.fromkeys([first, *inner.values()]))
            made[name] = replace(head, table=own, origin=files, origins=inner)
    return made


def changed_plugins(old: Config, new: Config) -> set[str]:
    """Return the plugins whose tables differ, or are in one config only."""
    names = old.plugins.keys() | new.plugins.keys()
    return {name for name in names if old.plugins.get(name) != new.plugins.get(name)}


def needs_restart(old: Config, new: Config) -> list[str]:
    """Return the core tables that differ; they take effect when the daemon is restarted.

    New peers need none, and who may call what over the socket needs none.
    """
    known = {name: peer for name, peer in new.link.peers.items() if name in old.link.peers}
    rpc = replace(new.rpc, readers=old.rpc.readers, admin_group=old.rpc.admin_group)
    new = replace(new, link=replace(new.link, peers=known), access=old.access, rpc=rpc)
    return [name for name in _CORE if getattr(old, name) != getattr(new, name)]


def take_over(held: Config, fresh: Config) -> Config:
    """Return *held* with what a running daemon can take over from *fresh*.

    That is the plugins' tables, new peers, and who may call what over the socket.
    """
    added = {name: peer for name, peer in fresh.link.peers.items() if name not in held.link.peers}
    live = ("plugins", "access", *_LIVE_RPC)
    now = tuple(f"link.peers.{name}" for name in added)
    kept = {name: file for name, file in held.origins.items() if not name.startswith(live)}
    taken = {name: file for name, file in fresh.origins.items() if name.startswith((*live, *now))}
    return replace(
        held,
        link=replace(held.link, peers={**held.link.peers, **added}),
        rpc=replace(held.rpc, readers=fresh.rpc.readers, admin_group=fresh.rpc.admin_group),
        access=fresh.access,
        plugins=fresh.plugins,
        files=fresh.files,
        origins={**kept, **taken},
    )
