"""What status says of a service beside its state: its last failure, its blocked loop, its budget. Layer: values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LastFailure:
    """The last time a service failed; kept when it runs again."""

    at: float
    """Wall clock, seconds since 1970."""
    reason: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    stack: list[str] = field(default_factory=list)
    """If it was stuck: where each of its threads was, a line each, innermost first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLoop:
    """How often an event loop was blocked for more than 100 ms, and where last."""

    count: int
    seconds: float
    """All blocks together."""
    longest_s: float
    last_s: float
    at: float
    """Wall clock of the last."""
    file: str
    line: int
    service: str = ""
    """In the core: the inline service whose code it was; empty if it was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a service may use, as its table in the config says; 0 for no limit."""

    memory_max_bytes: int = 0
    cpu_max_percent: float = 0.0
    open_files_max: int = 0
    tasks_max: int = 0
    throttle_percent: float | None = None
    """Of one processor, while power is short; None if nothing slows it."""
    throttled_s: float = 0.0
    """For how long this run was kept from the processor."""
    tasks_refused: int = 0
    """How often this run could not have one more thread or process."""
    not_kept: list[str] = field(default_factory=list)
    """The keys that nothing here can enforce: no control group was delegated to the daemon."""
