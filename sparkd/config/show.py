"""The config in force as plain values, for people and scripts, secrets hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from sparkd.config.secret import Secret
from sparkd.config.tables import Config


def show(config: Config) -> dict[str, Any]:
    """Return *config* as dicts, lists and scalars."""
    shown = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    shown["plugins"] = {name: _flat(table) for name, table in shown["plugins"].items()}
    return shown


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    own = table.pop("table")
    return {**{key: value for key, value in table.items() if value is not None}, **own}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path | Secret) else value
