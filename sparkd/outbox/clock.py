"""Whether the wall clock can be believed. A Pi without a battery begins in the past until the network tells it."""

from __future__ import annotations

import ctypes
from pathlib import Path

_TIMESYNC = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5
"""What adjtimex(2) returns while the clock is not synchronised."""
_TIMEX_BYTES = 512
"""More than `struct timex` has on any architecture; zeroed, it asks and changes nothing."""


def clock_is_synchronised() -> bool:
    """Return whether the kernel or systemd says that the clock is synchronised."""
    if _TIMESYNC.exists():
        return True
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    return int(libc.adjtimex(buffer)) not in (-1, _TIME_ERROR)
