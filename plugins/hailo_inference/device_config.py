"""What an operator may set of the accelerator, in `[plugins.hailo-inference.hailo]`."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HailoConfig:
    """The table `[plugins.hailo-inference.hailo]`. Without a Hailo nothing of it matters."""

    batch: int = 8
    """So many pictures at the most go to the device at once. The vendor's figures are for 1 and 8."""
    timeout_s: float = 5.0
    """How long the device may take for anything: to open, to answer, to compute a batch. Then it is taken for lost."""
    temperature_interval_s: float = 10.0
    """How often the chip's temperature is read."""
    hot_c: float = 90.0
    """Above it the service is degraded, and the sources' frame rates are lowered, until it is 5 degrees cooler."""
    hot_rate: float = 0.5
    """The share of their frame rates that the sources keep while it is hot."""
    measure_power: bool = False
    """Whether its power is measured, at the same times. On M.2 modules the chip's over-current protection is off while
    it measures; the AI HAT+ may have no sensor for it."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch: a whole number from 1 to {MAX_BATCH} expected, got {self.batch}")
        for key in ("timeout_s", "temperature_interval_s", "hot_c"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}: must be positive, got {getattr(self, key)}")
        if not 0 < self.hot_rate <= 1:
            raise ValueError(f"hot_rate: above 0 and not above 1 expected, got {self.hot_rate}")
