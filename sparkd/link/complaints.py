"""Counting what is refused, and saying so without letting whoever caused it fill the log."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from sparkd.service import Log

QUIET_S = 60.0
"""One line per culprit and kind in this time; the others are counted, and the next line says how many."""
MAX_KINDS = 256
"""A culprit can invent kinds (topics, addresses); beyond this many they count as `other`."""


class Counts:
    """Counters by kind, bounded in number."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, kind: str) -> None:
        """Count one of *kind*."""
        self._counts[kind if kind in self._counts or len(self._counts) < MAX_KINDS else "other"] += 1

    def plain(self) -> dict[str, int]:
        """Return the counts, largest first."""
        return dict(self._counts.most_common())


class Complaints:
    """A log that says each thing about each culprit once a minute."""

    def __init__(self, log: Log, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.log = log
        self._clock = clock
        self._said: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def say(self, event: str, *, culprit: str, **fields: object) -> None:
        """Warn of *event* by *culprit*, unless that was done within the last minute."""
        now = self._clock()
        since, kept_back = self._said.get((event, culprit), (-QUIET_S, 0))
        if now - since < QUIET_S:
            self._said[event, culprit] = since, kept_back + 1
            return
        self._said[event, culprit] = now, 0
        self._said.move_to_end((event, culprit))
        if len(self._said) > MAX_KINDS:
            self._said.popitem(last=False)
        more = {"more_before": kept_back} if kept_back else {}
        self.log.warning(event, **fields, **more)
