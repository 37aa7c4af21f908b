"""What `sparkctl plugin enable|disable` writes: a file of nothing but switches, in a folder of the daemon's own."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sparkd.config.load import SWITCHES
from sparkd.errors import ConfigError
from sparkd.lasting import make_lasting, write_whole
from sparkd.service import NAME

FILE = "plugins.toml"
_HEAD = "# Written by `sparkctl plugin enable|disable`; it wins over sparkd.d.\n"


def write(config_folder: Path, name: str, enabled: bool) -> None:  # noqa: FBT001 - called through a thread
    """Set the switch of plugin *name*. Raises ConfigError for a malformed name, OSError if it cannot be written."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"plugin name {name!r}: lower-case words joined by hyphens expected")
    folder = config_folder / SWITCHES
    make_lasting(folder, 0o755)
    file = folder / FILE
    switches = {**_read(file), name: enabled}
    lines = [f"\n[plugins.{plugin}]\nenabled = {str(on).lower()}\n" for plugin, on in sorted(switches.items())]
    write_whole(file, _HEAD + "".join(lines))


def _read(file: Path) -> dict[str, bool]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8")).get("plugins", {})
        if not isinstance(tables, dict):
            raise ValueError("plugins is not a table")  # noqa: TRY301, TRY004 - told as any other damage of the file
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}; mend or remove it") from None
    return {name: bool(table.get("enabled", True)) for name, table in tables.items() if isinstance(table, dict)}
