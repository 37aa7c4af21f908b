"""The config in force as plain values, for people and scripts, secrets hidden."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from sparkd.config.secret import looks_secret
from sparkd.config.tables import Config
from sparkd.secret import Secret

_PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s]+@")
HIDDEN = "(hidden)"


def show(config: Config, secrets: Mapping[str, Collection[str]] | None = None) -> dict[str, Any]:
    """Return *config* as dicts, lists and scalars.

    A plugin's table is shown as it was written, and its types are known to the plugin only. *secrets* are the keys of
    each plugin's table that are known to hold a secret. What stands under one of those, or under a key that sounds
    like a secret, is hidden, unless it is a table that only names one; and so is a password in a URL.
    """
    known = secrets or {}
    shown = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    shown["plugins"] = {name: _flat(table, known.get(name, ())) for name, table in shown["plugins"].items()}
    tables = {name.rpartition(".")[0] for name in config.origins} | {*shown}
    shown["origins"] = {name: file for name, file in config.origins.items() if name not in tables}
    return shown


def _flat(table: dict[str, Any], secrets: Collection[str]) -> dict[str, Any]:
    own = table.pop("table")
    table.pop("origins")
    kept = {key: value for key, value in table.items() if value is not None}
    return {**kept, **_veiled(own, lambda key: key in secrets or looks_secret(key))}


def _veiled(value: Any, is_secret: Callable[[str], bool], key: str = "") -> Any:
    if isinstance(value, Mapping):
        if is_secret(key) and value.keys() <= {"credential", "file", "env"}:
            return value
        return {name: _veiled(item, is_secret, key if is_secret(key) else name) for name, item in value.items()}
    if isinstance(value, list):
        return [_veiled(item, is_secret, key) for item in value]
    if is_secret(key):
        return HIDDEN
    return _PASSWORD_IN_URL.sub(rf"\1{HIDDEN}@", value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path | Secret) else value
