"""`/etc/sparkd/priv.toml`: which deeds are allowed, and on what. Root's own; without it only units are started."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sparkd.config import decode_table
from sparkd.deeds import UNIT_VERBS, VERBS
from sparkd.errors import ConfigError
from sparkd.priv.trust import require_roots

MAX_FILE_BYTES = 1 << 20
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_HOST = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_PATH = re.compile(r"/[A-Za-z0-9_./+@-]+")

Keeper = Literal["auto", "wg-quick", "networkd", "networkmanager"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What root lets the core ask for."""

    verbs: list[str] = field(default_factory=lambda: list(UNIT_VERBS))
    interfaces: dict[str, Keeper] = field(default_factory=dict)
    """The network interfaces that may be read, set and restarted, and what keeps each; `auto` finds out."""
    hosts: dict[str, str] = field(default_factory=dict)
    """The machines that may be woken: name and MAC address."""
    account: str = "sparkd"
    """The account of the core; besides root the only one that is answered."""
    config: Path = Path("/etc/sparkd/sparkd.toml")
    """The core's config, read for what a unit may have."""
    runtime_dir: Path = Path("/run/sparkd")
    """The core's, if its config does not say another."""
    credentials_dir: Path = Path("/etc/sparkd/credentials")
    nft_dir: Path = Path("/etc/sparkd/nft")
    """Files NAME.nft that may be loaded."""

    def __post_init__(self) -> None:
        for verb in self.verbs:
            if verb not in VERBS:
                raise ValueError(f"verbs: known are {', '.join(VERBS)}; got {verb!r}")
        for name in self.interfaces:
            if not _INTERFACE.fullmatch(name):
                raise ValueError(f"interfaces: a network interface's name expected, got {name!r}")
        for name, mac in self.hosts.items():
            if not _HOST.fullmatch(name) or not _MAC.fullmatch(mac):
                raise ValueError(f"hosts: name = 'aa:bb:cc:dd:ee:ff' expected, got {name} = {mac!r}")
        for key in ("config", "runtime_dir", "credentials_dir", "nft_dir"):
            path = str(getattr(self, key))
            if not _PATH.fullmatch(path) or ".." in path.split("/"):
                raise ValueError(f"{key}: an absolute path expected, got {path!r}")


def load_settings(path: Path) -> Settings:
    """Return what *path* says; the defaults if it is not there. Raises ConfigError if it is wrong, or not root's."""
    if not path.exists():
        return Settings()
    require_roots(path)
    content = path.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    try:
        table = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return decode_table(Settings, table, where="priv", file=str(path))
