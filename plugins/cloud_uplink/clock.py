"""Whether the wall clock can be trusted: a Pi may have no battery, and wakes in the past."""

from __future__ import annotations

import time
from pathlib import Path

SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes it once it has the time from the network (systemd-timesyncd.service(8), Files)."""
BUILT_NS = int(Path(__file__).stat().st_mtime * 1e9)
"""No true clock shows less than the time this file was installed."""


def trusted_now_ns() -> int | None:
    """Return the wall clock, or None while it cannot be trusted.

    Where timesyncd runs, its word counts. Elsewhere (chrony, a container) all that is known is that a clock that shows
    a time before this program was installed is wrong.
    """
    now_ns = time.time_ns()
    if SYNCHRONISED.parent.is_dir():
        return now_ns if SYNCHRONISED.exists() else None
    return now_ns if now_ns > BUILT_NS else None
