"""Writing config drop-ins: what `sparkctl` sets for the operator goes to files of its own, never into theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparkd.errors import ConfigError
from sparkd.lasting import make_lasting, write_whole

Value = str | bool | int | float | Sequence[str]


def table_text(name: str, values: Mapping[str, Value]) -> str:
    """Return a TOML table. JSON's strings, numbers, switches and lists of strings are TOML's too."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def write_drop_in(config: Path, name: str, text: str, *, replace: bool = False) -> Path:
    """Write `sparkd.d/`*name* beside the config, whole and synced; return the file.

    Raises ConfigError if there is one already and it may not *replace* it, or if it cannot be written.
    """
    folder = config / "sparkd.d"
    file = folder / name
    try:
        make_lasting(folder, 0o755)
        write_whole(file, text, mode=0o644, replace=replace)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already; change it by hand, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; try: sudo") from None
    return file
