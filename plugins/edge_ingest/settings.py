"""The table `[plugins.edge-ingest]`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeIngestConfig:
    """Whose records to take."""

    nodes: tuple[str, ...] = ()
    """Nodes whose records are taken; every trusted one if empty."""
    same_site_nodes: tuple[str, ...] = ()
    """Nodes at this node's own site: only their records of class `local` are taken."""
    topics: tuple[str, ...] = ()
    """Topics that are taken, each with what is beneath it; all if empty."""
    max_record_bytes: int = 512 * 1024
    max_batch_records: int = 10_000
    retry_least_s: float = 1.0
    retry_most_s: float = 60.0
    """How long to wait before a command is offered again to a node that could not be reached."""

    def __post_init__(self) -> None:
        for name in ("max_record_bytes", "max_batch_records", "retry_least_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.retry_most_s < self.retry_least_s:
            raise ValueError(f"retry_most_s {self.retry_most_s} is less than retry_least_s {self.retry_least_s}")
