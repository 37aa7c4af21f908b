"""Versions: a hybrid logical clock, so that what was written after is newer though wall clocks differ. Pure.

After Kulkarni and others, "Logical Physical Clocks" (2014): milliseconds of the wall clock, a counter for what happens
within one, and the node's id, so that no two versions are the same. As text they sort as they should.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

DRIFT_MS = 5 * 60 * 1000
"""So far ahead of ours another's clock may be: beyond it somebody's clock is wrong, and ours is not moved by it."""
VERSION = re.compile(r"[0-9a-f]{12}[0-9a-f]{4}-[0-9a-f]{32}")
COUNTER_MOST = 0xFFFF


def wall_ms() -> int:
    """Return the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def version_of(ms: int, counter: int, node_id: str) -> str:
    """Return a version as text."""
    return f"{ms:012x}{counter:04x}-{node_id}"


def ms_of(version: str) -> int:
    """Return the milliseconds of a version. Raises ValueError for what is none."""
    if not VERSION.fullmatch(version):
        raise ValueError(f"a version is 16 hexadecimal digits, '-' and 32 more, got {version[:60]!r}")
    return int(version[:12], 16)


def node_of(version: str) -> str:
    """Return the id of the node that wrote *version*."""
    return version[17:]


def just_after(version: str, node_id: str) -> str:
    """Return the smallest version of *node_id* above *version*."""
    ms, counter = ms_of(version), int(version[12:16], 16)
    return version_of(ms + 1, 0, node_id) if counter == COUNTER_MOST else version_of(ms, counter + 1, node_id)


def floor_of(ms: int) -> str:
    """Return a version below all that were written at or after *ms*."""
    return version_of(max(ms, 0), 0, "0" * 32)


class VersionClock:
    """Gives out versions, each above all it gave and all it was shown."""

    def __init__(self, node_id: str, *, after: str = "", wall: Callable[[], int] = wall_ms) -> None:
        """Go on *after* the last version that was given out before."""
        self._node_id = node_id
        self._wall = wall
        self._ms, self._counter = (ms_of(after), int(after[12:16], 16)) if after else (0, 0)

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds."""
        return self._wall()

    def next(self, *, above: str = "") -> str:
        """Return a new version, above *above*, too: what one replaces, however wrong its writer's clock was."""
        wall = self._wall()
        if wall > self._ms:
            self._ms, self._counter = wall, 0
        elif self._counter == COUNTER_MOST:
            self._ms, self._counter = self._ms + 1, 0
        else:
            self._counter += 1
        version = version_of(self._ms, self._counter, self._node_id)
        if above >= version:
            if self.seen(above):
                return self.next()
            return just_after(above, self._node_id)  # for this key only: the clock stays right for all others
        return version

    def seen(self, version: str) -> bool:
        """Go on after *version*, too; False if it is too far ahead to be believed."""
        ms, counter = ms_of(version), int(version[12:16], 16)
        if ms > self._wall() + DRIFT_MS:
            return False
        self._ms, self._counter = max((self._ms, self._counter), (ms, counter))
        return True
