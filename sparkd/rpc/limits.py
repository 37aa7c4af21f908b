"""The bounds of the socket: what one client, or all of them, may cost the node."""

from __future__ import annotations

from dataclasses import dataclass

from sparkd.config import RpcConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """Each is refused clearly when it is passed, and others go on."""

    max_line_bytes: int = 1 << 20
    """A longer line is answered with an error before it is parsed, and skipped to its end; the connection stays."""
    line_timeout_s: float = 10.0
    """How long a line may take from its first byte to its end; then the connection is closed."""
    max_connections: int = 256
    """The next one is told that the node is busy, and closed."""
    max_batch: int = 100
    max_in_flight: int = 64
    """Messages being answered on one connection; beyond it nothing more is read from the client."""
    max_streams: int = 32
    """Streams open on one connection."""
    max_unread_bytes: int = 4 << 20
    """Answers a client has not read; beyond it, or if it reads nothing for `read_timeout_s`, it is dropped."""
    read_timeout_s: float = 10.0

    @classmethod
    def of(cls, config: RpcConfig) -> RpcLimits:
        """Return the limits that *config* sets."""
        return cls(
            max_line_bytes=config.max_line_bytes,
            line_timeout_s=config.line_timeout_s,
            max_connections=config.max_connections,
        )
