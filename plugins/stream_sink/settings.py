"""The table `[plugins.stream-sink]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSinkConfig:
    """Where rows go, and how many at once."""

    path: str = ""
    """The database file; `sparkd.db` in the service's own state folder if empty."""
    max_batch_records: int = 500
    max_batch_bytes: int = 1 << 20
    retry_least_s: float = 1.0
    retry_most_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_batch_records", "max_batch_bytes", "retry_least_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.retry_most_s < self.retry_least_s:
            raise ValueError(f"retry_most_s {self.retry_most_s} is less than retry_least_s {self.retry_least_s}")

    def database(self, state_dir: Path) -> Path:
        """Return the database file."""
        return Path(self.path) if self.path else state_dir / "sparkd.db"
