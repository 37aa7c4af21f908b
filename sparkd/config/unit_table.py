"""`[plugins.NAME.unit]`: what a service gets that runs as a systemd unit of its own. Only root's config grants it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_DEVICE = re.compile(r"(/dev/[A-Za-z0-9_./:+-]+|(char|block)-[A-Za-z0-9_.*-]+)( [rwm]{1,3})?")
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(:/[A-Za-z0-9_./+@-]+)?")
_PATH = re.compile(r"/[A-Za-z0-9_./+@-]+")
SPEC_CREDENTIAL = "sparkd-spec"
"""The credential that tells the unit what it is; no other may have its name."""


def _check(key: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    if not pattern.fullmatch(value) or ".." in value.split("/"):
        raise ValueError(f"{key}: {expected} expected, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTable:
    """`[plugins.NAME.unit]`, read where `isolation = "unit"`. Nothing here can be asked for by a plugin."""

    user: str = ""
    """An account of this machine; empty for one that systemd makes for the run."""
    groups: list[str] = field(default_factory=list)
    """Groups it is a member of besides its own."""
    python: Path | None = None
    """The interpreter, such as /usr/bin/python3 for a vendor's package of the system; None for the daemon's own."""
    devices: list[str] = field(default_factory=list)
    """Device files, such as `/dev/hailo0` or `/dev/i2c-1 r`, or kinds of them, such as `char-alsa`."""
    credentials: list[str] = field(default_factory=list)
    """`NAME`, of /etc/sparkd/credentials, or `NAME:/path`."""
    read_write_paths: list[Path] = field(default_factory=list)
    """What it may write besides its state folder."""
    network: bool = False
    """Whether it reaches any network; without it there is not even loopback."""
    read_outbox: bool = False
    """Whether it may read the durable streams of other services."""
    memory_max_bytes: int = 0
    """Of all its processes together; 0 for no limit."""
    cpu_max_percent: float = 0.0
    """Of one core; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.user:
            _check("user", self.user, _ACCOUNT, "an account's name")
        if self.user == "root":
            raise ValueError("user: a unit never runs as root; what needs root is a deed of sparkd-priv")
        for group in self.groups:
            _check("groups", group, _ACCOUNT, "names of groups")
        if self.python is not None:
            _check("python", str(self.python), _PATH, "an absolute path")
        for device in self.devices:
            _check("devices", device, _DEVICE, "'/dev/NAME', 'char-NAME' or 'block-NAME', with 'rw' or such behind it,")
        for credential in self.credentials:
            _check("credentials", credential, _CREDENTIAL, "'NAME' or 'NAME:/path'")
        if SPEC_CREDENTIAL in {credential.partition(":")[0] for credential in self.credentials}:
            raise ValueError(f"credentials: the name {SPEC_CREDENTIAL!r} is taken")
        for path in self.read_write_paths:
            _check("read_write_paths", str(path), _PATH, "absolute paths")
        self._check_limits()

    def _check_limits(self) -> None:
        if self.memory_max_bytes and not 16 << 20 <= self.memory_max_bytes <= 1 << 50:
            raise ValueError(f"memory_max_bytes: 0, or 16777216 and more expected, got {self.memory_max_bytes}")
        if self.cpu_max_percent and not 1 <= self.cpu_max_percent <= 100_000:  # noqa: PLR2004 - a thousand cores
            raise ValueError(f"cpu_max_percent: 0, or 1 to 100000 expected, got {self.cpu_max_percent:g}")
