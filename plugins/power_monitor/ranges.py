"""Checking numbers of the config."""

from __future__ import annotations

from math import isfinite

DAY_S = 86_400.0
HOUR_S = 3_600.0


def check_range(key: str, value: float, low: float, high: float) -> None:
    """Raise ValueError that names *key* unless *value* is a number from *low* to *high*."""
    if not (isfinite(value) and low <= value <= high):
        raise ValueError(f"{key}: from {low:g} to {high:g} expected, got {value:g}")
