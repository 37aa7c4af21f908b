"""The table `[plugins.cloud-uplink]`."""

from __future__ import annotations

from dataclasses import dataclass

from sparkd import POWER_MODES


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudUplinkConfig:
    """Where to ship what, how much at once, and which commands to take from there."""

    target: str
    """The node that serves `ingest`."""
    target_site: str = ""
    """The site the target stands at; records of class `local` go there only if it is this node's own."""
    streams: tuple[str, ...] = ("*",)
    """Patterns of `service/stream`."""
    topics: tuple[str, ...] = ()
    """Topics that may go, each with what is beneath it; all if empty."""
    max_batch_records: int = 500
    max_batch_bytes: int = 256 * 1024
    max_record_bytes: int = 512 * 1024
    """A larger record becomes a dead letter: calls carry no more in one piece."""
    in_flight: int = 2
    """Batches under way at once; all but one may be history."""
    deadline_s: float = 30.0
    retry_least_s: float = 1.0
    retry_most_s: float = 60.0
    max_failures: int = 5
    """A record that makes its batch fail this often, alone, becomes a dead letter."""
    backfill_rate_bytes_per_s: int = 0
    """How fast a stream's history may go while its fresh records go beside it; 0 for as fast as it will."""
    history_waits_in: tuple[str, ...] = ("low", "critical")
    """Power modes of this node in which the history of streams waits; fresh records go in any."""
    commands_allow: tuple[str, ...] = ()
    """Patterns of methods (`vision.infer`, `power.*`) that the target may have called here; none by default."""
    command_deadline_s: float = 60.0

    def __post_init__(self) -> None:
        positive = (
            "max_batch_records",
            "max_batch_bytes",
            "max_record_bytes",
            "in_flight",
            "deadline_s",
            "retry_least_s",
            "max_failures",
            "command_deadline_s",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for mode in self.history_waits_in:
            if mode not in POWER_MODES:
                raise ValueError(f"history_waits_in: one of {', '.join(POWER_MODES)} expected, got {mode!r}")
        if self.retry_most_s < self.retry_least_s:
            raise ValueError(f"retry_most_s {self.retry_most_s} is less than retry_least_s {self.retry_least_s}")
        if self.backfill_rate_bytes_per_s < 0:
            raise ValueError(f"backfill_rate_bytes_per_s must be 0 or more, got {self.backfill_rate_bytes_per_s}")
