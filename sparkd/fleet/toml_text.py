"""Writing TOML: what `tomllib` reads comes back the same, in the order given. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_tables(name: str, table: Mapping[str, Any]) -> str:
    """Return `[name]` and the tables beneath it."""
    own = {key: value for key, value in table.items() if not isinstance(value, Mapping) or _names_secret(value)}
    within = {key: value for key, value in table.items() if key not in own}
    parts = []
    if own or not within:
        parts.append(f"[{name}]\n" + "".join(f"{_key(key)} = {_value(value)}\n" for key, value in own.items()))
    parts += [toml_tables(f"{name}.{_key(key)}", value) for key, value in within.items()]
    return "\n".join(parts)


def _names_secret(value: Mapping[str, Any]) -> bool:
    """Whether a table is such as `{ file = "/path" }`, which people write in one line."""
    return len(value) == 1 and value.keys() <= {"credential", "file", "env"}


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """JSON's strings are TOML's, but for one character that TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return repr(value)
