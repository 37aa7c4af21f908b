"""When a service that ended is started again: a pure function of how and when it ended.

The rule (design §2): the first restart after a healthy minute, or after a signal from outside, is immediate; then the
pause doubles from 1 s to 60 s, with jitter. Five failures of its own within a minute make it `broken`: it is tried
again every five minutes and whenever its code, its config or what it needs changes. What is missing (a device, a
server, a package) is nobody's failure: it is tried again with the same pauses and never makes a service `broken`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

HEALTHY_S = 60.0
"""A run that lasted this long clears what came before it."""
PAUSE_MIN_S = 1.0
PAUSE_MAX_S = 60.0
FAILURES_TO_BREAK = 5
WINDOW_S = 60.0
BROKEN_RETRY_S = 300.0
OUTSIDE_SIGNALS_AT_ONCE = 10
"""So many kills from outside within the window are answered at once; more look like the kernel's out-of-memory killer
or somebody's mistake, and then the pauses apply."""


class EndKind(StrEnum):
    """How a run of a service ended."""

    FINISHED = "finished"  # it returned: its work is done for good
    STOPPED = "stopped"  # because it was asked to
    FAILED = "failed"  # an exception, an exit, a crash, a hang, a missed start limit
    SIGNALLED = "signalled"  # a signal that neither we nor its own crash sent
    MISSING = "missing"  # something it needs is not there
    MISCONFIGURED = "misconfigured"  # its config table cannot be used: only a change helps


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of one run, with what an operator needs to know about it."""

    kind: EndKind
    reason: str = ""
    remedy: str = ""
    file: str = ""
    line: int = 0
    stack: tuple[str, ...] = ()
    """Where its threads were, if it was killed because it was stuck; a line each, innermost first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes next: a pause, and whether the service counts as broken meanwhile."""

    pause_s: float
    broken: bool = False


@dataclass(slots=True)
class RestartPolicy:
    """The memory of one service's ends."""

    jitter: Callable[[], float] = random.random
    """Returns 0..1; a pause is stretched by up to a quarter so that many services do not come back as one."""
    _failures: deque[float] = field(default_factory=deque)
    _signals: deque[float] = field(default_factory=deque)
    _pause_s: float = 0.0

    def ended(self, end: End, *, now: float, healthy_s: float) -> Verdict:
        """Return what follows *end* at monotonic time *now*, after *healthy_s* seconds of being ready."""
        if healthy_s >= HEALTHY_S:
            self.forget()
        if end.kind is EndKind.MISCONFIGURED:
            return Verdict(BROKEN_RETRY_S, broken=True)
        if end.kind is EndKind.SIGNALLED and self._count(self._signals, now) <= OUTSIDE_SIGNALS_AT_ONCE:
            return Verdict(0.0)
        if end.kind is EndKind.FAILED and self._count(self._failures, now) >= FAILURES_TO_BREAK:
            return Verdict(BROKEN_RETRY_S, broken=True)
        if healthy_s >= HEALTHY_S:
            return Verdict(0.0)
        self._pause_s = min(max(self._pause_s * 2, PAUSE_MIN_S), PAUSE_MAX_S)
        return Verdict(self._pause_s * (1 + self.jitter() / 4))

    def forget(self) -> None:
        """Start afresh: the service has been healthy, or something about it has changed."""
        self._failures.clear()
        self._signals.clear()
        self._pause_s = 0.0

    @staticmethod
    def _count(times: deque[float], now: float) -> int:
        times.append(now)
        while times[0] < now - WINDOW_S:
            times.popleft()
        return len(times)
