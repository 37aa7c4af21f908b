"""Reading `sparkd.toml` and its drop-ins into one `Config`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sparkd.config.decode import decode_table, nearest
from sparkd.config.tables import (
    BusConfig,
    Config,
    LinkConfig,
    NodeConfig,
    OutboxConfig,
    PluginTable,
    RpcConfig,
)
from sparkd.errors import ConfigError
from sparkd.service import NAME

FILE_NAME = "sparkd.toml"
_CORE = {"node": NodeConfig, "bus": BusConfig, "rpc": RpcConfig, "link": LinkConfig, "outbox": OutboxConfig}
_CORE_KEYS = {field.name for field in fields(PluginTable)} - {"table", "origin"}
Origin = dict[str, str]


def find_config(given: Path | None = None) -> Path | None:
    """Return the config file to read: *given*, else the usual one, else None. Raises ConfigError if *given* lacks."""
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"{given}: no such file")
        return given
    usual = [Path(folder) for folder in os.environ.get("CONFIGURATION_DIRECTORY", "").split(":") if folder]
    usual.append(Path("/etc/sparkd"))
    usual.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sparkd")
    return next((folder / FILE_NAME for folder in usual if (folder / FILE_NAME).is_file()), None)


def load_config(path: Path | None) -> Config:
    """Return the config in *path* and in `sparkd.d/*.toml` beside it. Raises ConfigError with every problem."""
    problems: list[str] = []
    tables: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    files = [] if path is None else [path, *sorted((path.parent / "sparkd.d").glob("*.toml"))]
    for file in files:
        try:
            _merge(tables, origins, _parse(file), str(file))
        except ConfigError as error:
            problems += error.problems
    made: dict[str, Any] = {}
    for name in tables:
        if name not in _CORE and name != "plugins":
            origin = next(iter(origins[name].values()), str(path))
            problems.append(f"{origin}: [{name}]: unknown table; {nearest(name, [*_CORE, 'plugins'])}")
    for name, cls in _CORE.items():
        try:
            made[name] = decode_table(
                cls, tables.get(name, {}), where=name, origins=origins.get(name), file=str(path or "")
            )
        except ConfigError as error:
            problems += error.problems
    made["plugins"] = _plugins(tables.get("plugins", {}), origins, problems, str(path or ""))
    if problems:
        raise ConfigError(*problems)
    return Config(**made, files=tuple(files))


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: nested too deeply") from None


def _merge(tables: dict[str, Any], origins: dict[str, Origin], found: Mapping[str, Any], file: str) -> None:
    """Lay *found* over *tables*: tables are merged, everything else is replaced."""
    for name, table in found.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"{file}: {name}: a key outside of a table; {nearest(name, [*_CORE, 'plugins'])}")
        origin = origins.setdefault(name, {})
        for key, value in table.items():
            origin[key] = file
            held = tables.setdefault(name, {}).get(key)
            if isinstance(held, dict) and isinstance(value, dict):
                if name == "plugins":
                    inner = origins.setdefault(f"plugins.{key}", {})
                    inner.update(dict.fromkeys(value, file))
                _overlay(held, value)
            else:
                tables[name][key] = value
                if name == "plugins" and isinstance(value, dict):
                    origins[f"plugins.{key}"] = dict.fromkeys(value, file)
        tables.setdefault(name, {})


def _overlay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        held = below.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            _overlay(held, value)
        else:
            below[key] = value


def _plugins(
    tables: Mapping[str, Any], origins: Mapping[str, Origin], problems: list[str], file: str
) -> dict[str, PluginTable]:
    made = {}
    for name, table in tables.items():
        origin = origins.get("plugins", {}).get(name, file)
        if not NAME.fullmatch(name) or not isinstance(table, Mapping):
            what = (
                "a table expected" if NAME.fullmatch(name) else "a plugin's name is lower-case words joined by hyphens"
            )
            problems.append(f"{origin}: [plugins.{name}]: {what}")
            continue
        core = {key: value for key, value in table.items() if key in _CORE_KEYS}
        own = {key: value for key, value in table.items() if key not in _CORE_KEYS}
        inner = origins.get(f"plugins.{name}", {})
        try:
            head = decode_table(PluginTable, core, where=f"plugins.{name}", origins=inner, file=origin)
        except ConfigError as error:
            problems += error.problems
        else:
            made[name] = replace(head, table=own, origin=origin)
    return made


def changed_plugins(old: Config, new: Config) -> set[str]:
    """Return the plugins whose tables differ, or are in one config only."""
    names = old.plugins.keys() | new.plugins.keys()
    return {name for name in names if old.plugins.get(name) != new.plugins.get(name)}


def needs_restart(old: Config, new: Config) -> list[str]:
    """Return the core tables that differ; they take effect when the daemon is restarted."""
    return [name for name in _CORE if getattr(old, name) != getattr(new, name)]
