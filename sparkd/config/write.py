"""Writing config drop-ins: what `sparkctl` sets for the operator goes to files of its own, never into theirs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparkd.errors import ConfigError

Value = str | bool | int | float | Sequence[str]


def table_text(name: str, values: Mapping[str, Value]) -> str:
    """Return a TOML table. JSON's strings, numbers, switches and lists of strings are TOML's too."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_drop_in(config: Path, name: str, text: str, *, replace: bool = False) -> Path:
    """Write `sparkd.d/`*name* beside the config, whole and synced; return the file.

    Raises ConfigError if there is one already and it may not *replace* it, or if it cannot be written.
    """
    folder = config / "sparkd.d"
    file = folder / name
    part = folder / f".{name}.part"
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o644)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if replace:
            part.replace(file)
        else:
            os.link(part, file)  # unlike rename, fails if the file is there
        for place in (folder, config):
            _sync(place)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already; change it by hand, or remove it first") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}; try: sudo") from None
    finally:
        part.unlink(missing_ok=True)
    return file
