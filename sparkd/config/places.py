"""Where a daemon keeps things: what systemd says, else the system's folders for root, else the user's (XDG)."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sparkd.config.load import find_config, load_config
from sparkd.config.tables import Config, NodeConfig
from sparkd.errors import ConfigError
from sparkd.lasting import write_whole

SYSTEM_SOCKET = Path("/run/sparkd/sparkd.sock")
"""Where `sparkd.service` has its socket."""
_NODE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one daemon."""

    config: Path
    plugins: tuple[Path, ...]
    """Drop-in folders, the first of them the one that `sparkctl plugin new` writes to."""
    runtime: Path
    state: Path
    cache: Path

    @property
    def socket(self) -> Path:
        """The JSON-RPC socket."""
        return self.runtime / "sparkd.sock"


def places(node: NodeConfig, config_file: Path | None) -> Places:
    """Return the folders for *node*; nothing is made. Paths in the config win, then systemd's, then the usual ones."""
    config = (
        config_file.parent if config_file else _folder("CONFIGURATION", "/etc/sparkd", "XDG_CONFIG_HOME", ".config")
    )
    runtime = node.runtime_dir or _folder("RUNTIME", "/run/sparkd", "XDG_RUNTIME_DIR", ".local/run")
    state = node.state_dir or _folder("STATE", "/var/lib/sparkd", "XDG_STATE_HOME", ".local/state")
    cache = node.cache_dir or _folder("CACHE", "/var/cache/sparkd", "XDG_CACHE_HOME", ".cache")
    return Places(config, (config / "plugins", *node.plugin_dirs), runtime, state, cache)


def _folder(name: str, system: str, xdg: str, home: str) -> Path:
    given = os.environ.get(f"{name}_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.getuid() == 0:
        return Path(system)
    return Path(os.environ.get(xdg) or Path.home() / home) / "sparkd"


def load_places(given: Path | None) -> tuple[Config, Places]:
    """Read the config and return it with its places. Raises ConfigError."""
    file = find_config(given)
    config = load_config(file)
    return config, places(config.node, file)


def find_socket(given: Path | None) -> Path:
    """Return the socket of the daemon to speak to: that of the config, else the one of the system's own daemon.

    Raises ConfigError if the config cannot be used and the system has none: a daemon may run on an older config.
    """
    try:
        own = load_places(given)[1].socket
    except ConfigError:
        if given is not None or not _may_be(SYSTEM_SOCKET):
            raise
        return SYSTEM_SOCKET
    return SYSTEM_SOCKET if given is None and not os.path.exists(own) and _may_be(SYSTEM_SOCKET) else own  # noqa: PTH110 - it is false, too, for what is closed to us


def _may_be(path: Path) -> bool:
    """Whether *path* is there, for all we can see: a folder that is closed to us is for `connect` to tell of."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def make(found: Places) -> None:
    """Make the folders, closed to others. Raises ConfigError that says which could not be made."""
    for folder in (found.runtime, found.state, found.cache):
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be made: {error.strerror}; see [node] and the unit's *Directory="
            ) from None


def node_id(state: Path) -> str:
    """Return the node's identity, 128 bits in hex, made once and kept in *state*.

    Raises ConfigError if the file is damaged: a new identity would make the receiver store everything again.
    """
    file = state / "node_id"
    try:
        known = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _new_node_id(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    if not _NODE_ID.fullmatch(known):
        raise ConfigError(
            f"{file}: damaged: 32 hex digits expected, got {len(known)} characters; restore it from a backup"
        )
    return known


def _new_node_id(file: Path) -> str:
    try:
        with contextlib.suppress(FileExistsError):  # another process may have made one at the same time
            write_whole(file, f"{os.urandom(16).hex()}\n", mode=0o600, replace=False)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be made: {error.strerror}") from None
    return node_id(file.parent)
