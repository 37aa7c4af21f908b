"""The last lines of every service and of the core, and who follows them."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import anyio

from sparkd.core_interfaces import LogRecord
from sparkd.log import INFO, SYSLOG, parse_line

LINES_KEPT = 200
FOLLOWER_LINES = 1000
SAID_LINES, SAID_PER_S = 500, 5.0
"""So many lines of a service go to the daemon's own log in so many seconds; the journal has a limit for the whole
daemon, and beyond it drops the core's own lines too."""
_LEVELS = {level: number for number, level in SYSLOG.items()}
CORE = "core"


class Logbook(logging.Handler):
    """Keeps what passes the standard library's logging in this process, by logger name."""

    def __init__(self, on_line: Callable[[LogRecord], None] = lambda _record: None) -> None:
        """Begin empty; *on_line* is told each line that goes to the daemon's own log."""
        super().__init__()
        self._on_line = on_line
        self._lines: dict[str, deque[LogRecord]] = {}
        self._followers: set[_Follower] = set()
        self._flows: dict[str, _Flow] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, line by line."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a record that cannot be made into text must not fail who logs it
            self.handleError(record)
            return
        for text in message.split("\n"):
            level = SYSLOG.get(record.levelno, INFO)
            line = LogRecord(service=record.name, level=level, text=text, at=record.created)
            self._on_line(line)
            self._keep(line)

    def child_line(self, service: str, line: str) -> None:
        """Take a line a service wrote: keep it here, and pass it to the daemon's own log unless there are too many."""
        level, text = parse_line(line)
        flow = self._flows.setdefault(service, _Flow())
        held = flow.take(time.monotonic())
        if held:
            message = "lines of a service were left out of this log"
            logging.getLogger(CORE).warning("%s service=%s lines=%d", message, service, held)
        if held is None:
            self._keep(LogRecord(service=service, level=level, text=text, at=time.time()))
        else:
            logging.getLogger(service).log(_LEVELS.get(level, logging.INFO), "%s", text)

    def tail(self, service: str, lines: int) -> list[LogRecord]:
        """Return the last *lines* of *service*, or of all in order of time."""
        held = self._lines.get(service, ()) if service else sorted(chain(*self._lines.values()), key=lambda r: r.at)
        return list(held)[-max(lines, 0) :] if lines > 0 else []

    async def follow(self, service: str) -> AsyncIterator[LogRecord]:
        """Yield what comes; a follower that does not read loses the oldest lines."""
        with self._following(service) as follower:
            while True:
                while follower.waiting:
                    yield follower.waiting.popleft()
                follower.news = anyio.Event()
                await follower.news.wait()

    @contextmanager
    def _following(self, service: str) -> Iterator[_Follower]:
        follower = _Follower(service)
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def _keep(self, record: LogRecord) -> None:
        self._lines.setdefault(record.service, deque(maxlen=LINES_KEPT)).append(record)
        for follower in self._followers:
            if follower.service in ("", record.service):
                follower.waiting.append(record)
                follower.news.set()


class _Flow:
    """How much a service says."""

    def __init__(self) -> None:
        self._since = 0.0
        self._said = 0

    def take(self, now: float) -> int | None:
        """Count a line; return None if it is one too many, else how many were before it that were."""
        self._said += 1
        if now - self._since < SAID_PER_S:
            return 0 if self._said <= SAID_LINES else None
        held = max(self._said - 1 - SAID_LINES, 0)
        self._since, self._said = now, 1
        return held


class _Follower:
    """Somebody who follows a service's lines, or all."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.waiting: deque[LogRecord] = deque(maxlen=FOLLOWER_LINES)
        self.news = anyio.Event()
