"""What an operator may set of tier 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sparkd import Secret

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyConfig:
    """The table `[plugins.nas-tier.hot]`: Valkey or Redis."""

    url: str = ""
    """`redis://HOST:PORT/DB`, `rediss://` for TLS, `unix:///path`. Empty: an embedded Valkey, a child of the
    service."""
    user: str = ""
    password: Secret | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """Who signed the server's certificate, if it is not one of the system's authorities."""
    max_bytes: int = 2 * GIB
    """Memory of the embedded one; beyond it what was used least lately goes."""
    ttl_s: float = 300.0
    """How long a copy stays ..."""
    ttl_most_s: float = 3600.0
    """... and the longest that any does."""
    ttl_jitter: float = 0.1
    """Copies that came together do not go together."""
    largest_bytes: int = MIB
    """Larger values are not kept here."""
    timeout_s: float = 0.25
    prefix: str = "sparkd:"
    """What keys begin with, where the server is shared with others."""

    def __post_init__(self) -> None:
        if self.url:
            _check_url(self.url)
        limits = {
            "max_bytes": (4 * MIB, 1 << 44),
            "ttl_s": (1.0, 3600.0),
            "ttl_most_s": (1.0, 3600.0),
            "ttl_jitter": (0.0, 0.5),
            "largest_bytes": (0, 64 * MIB),
            "timeout_s": (0.01, 60.0),
        }
        for key, (least, most) in limits.items():
            value = getattr(self, key)
            if not least <= value <= most:
                raise ValueError(f"{key}: from {least:g} to {most:g} expected, got {value:g}")
        if self.ttl_s > self.ttl_most_s:
            raise ValueError(f"ttl_s: at most ttl_most_s ({self.ttl_most_s:g}) expected, got {self.ttl_s:g}")
        if len(self.prefix) > 64 or not self.prefix.isascii() or not self.prefix.isprintable():  # noqa: PLR2004 - enough
            raise ValueError(f"prefix: up to 64 printable ASCII characters expected, got {self.prefix[:80]!r}")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix", "valkey", "valkeys"):
        raise ValueError(f"url: redis://, rediss:// or unix:// expected, got {parts.scheme[:20]!r}")
    if parts.password or (parts.username and parts.scheme != "unix"):
        raise ValueError("url: no user and password expected in it; set `user` and `password` instead")
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        raise ValueError("url: unix:///path/to/the.sock expected")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("url: a host expected, such as redis://127.0.0.1:6379/0")
