"""What an operator may set in `[plugins.node-telemetry]`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path


def _sysfs() -> Path:
    return Path("/sys")


def _mounts() -> list[str]:
    return ["/snap/*", "/run/*", "/var/lib/docker/*", "/var/lib/containers/*", "/var/lib/kubelet/*"]


def _interfaces() -> list[str]:
    return ["lo", "veth*", "docker*", "br-*", "virbr*", "vnet*", "cni*", "cali*", "flannel*", "ifb*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTelemetryConfig:
    """The table `[plugins.node-telemetry]`. Each threshold has a second one at which the problem is over."""

    interval_s: float = 10.0
    """Time between two samples."""
    health_every: int = 6
    """`NodeHealth` is said on every change, and again after so many samples."""
    read_limit_s: float = 30.0
    """A machine that takes longer to read hangs somewhere, on a dying disk perhaps."""
    disk_full_percent: float = 90.0
    disk_ok_percent: float = 85.0
    memory_low_percent: float = 8.0
    """Of all memory, what can still be had without swapping."""
    memory_ok_percent: float = 12.0
    hot_c: float = 80.0
    """A Pi 5 begins to throttle at 80 degrees and is held at 85."""
    cool_c: float = 75.0
    calm_samples: int = 3
    """Throttling and under-voltage come and go: they are over after so many samples without them."""
    ignore_mounts: list[str] = field(default_factory=_mounts)
    """Shell patterns of mount points that are not reported."""
    ignore_interfaces: list[str] = field(default_factory=_interfaces)
    """Shell patterns of network interfaces that are not reported: those of containers and virtual machines."""
    sysfs: Path = field(default_factory=_sysfs)
    """Where sysfs is mounted."""

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            value = getattr(self, key)
            if isinstance(value, int | float) and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{key}: must be a positive number, got {value}")
        for worse, better, more in (
            ("disk_full_percent", "disk_ok_percent", True),
            ("memory_low_percent", "memory_ok_percent", False),
            ("hot_c", "cool_c", True),
        ):
            if (getattr(self, worse) > getattr(self, better)) is not more:
                relation = "above" if more else "below"
                raise ValueError(
                    f"{worse}: must be {relation} {better}, got {getattr(self, worse)} and {getattr(self, better)}"
                )
