"""The last lines of every service and of the core, and who follows them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import anyio

from sparkd.core_interfaces import LogRecord
from sparkd.log import INFO, SYSLOG, parse_line

LINES_KEPT, CHARS_KEPT = 200, 1 << 15
"""Of a service, here in memory. What is older is in the log store."""
SERVICES_KEPT = 64
"""With more, the lines of the one that was silent the longest go: drop-ins come and go under new names for a year."""
BYTES_KEPT, LINE_BYTES = 512 << 10, 160
"""Of all services, each line counted as its text and what Python takes to hold it. With more, the services that were
silent the longest keep their last lines only: in a year of drop-ins that came, flooded and went, all were full."""
LAST_LINES, LAST_BYTES = 20, 4 << 10
FOLLOWER_LINES = 1000
SAID_LINES, SAID_PER_S = 500, 5.0
"""So many lines of a service go to the daemon's own log in so many seconds; the journal has a limit for the whole
daemon, and beyond it drops the core's own lines too."""
_LEVELS = {level: number for number, level in SYSLOG.items()}
CORE = "core"
_T = TypeVar("_T")


class Logbook(logging.Handler):
    """Keeps what passes the standard library's logging in this process, by logger name."""

    def __init__(self, on_line: Callable[[LogRecord], None] = lambda _record: None) -> None:
        """Begin empty; *on_line* is told each line that goes to the daemon's own log."""
        super().__init__()
        self._on_line = on_line
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._held_bytes = 0
        self._followers: set[_Follower] = set()
        self._flows: OrderedDict[str, _Flow] = OrderedDict()

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
        flow = _of_latest(self._flows, service, _Flow)
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
        if service:
            tail = self._tails.get(service)
            held = list(tail.lines) if tail else []
        else:
            held = sorted(chain(*(tail.lines for tail in self._tails.values())), key=lambda r: r.at)
        return held[-lines:] if lines > 0 else []

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
        if record.service not in self._tails and len(self._tails) >= SERVICES_KEPT:
            self._held_bytes -= self._tails.popitem(last=False)[1].held_bytes
        tail = _of_latest(self._tails, record.service, _Tail)
        self._held_bytes += tail.keep(record)
        if self._held_bytes > BYTES_KEPT:
            self._make_room()
        for follower in self._followers:
            if follower.service in ("", record.service):
                follower.waiting.append(record)
                follower.news.set()

    def _make_room(self) -> None:
        """Shorten the tails of those that were silent the longest, until a quarter of the room is free."""
        for tail in self._tails.values():
            self._held_bytes -= tail.shorten(LAST_LINES, LAST_BYTES)
            if self._held_bytes <= BYTES_KEPT * 3 // 4:
                return


class _Tail:
    """The last lines of a service."""

    def __init__(self) -> None:
        self.lines: deque[LogRecord] = deque()
        self.held_bytes = 0

    def keep(self, record: LogRecord) -> int:
        """Add a line, and let go of those that are too many; return by how much is held more."""
        before = self.held_bytes
        self.lines.append(record)
        self.held_bytes += _size(record)
        self.shorten(LINES_KEPT, CHARS_KEPT + LINES_KEPT * LINE_BYTES)
        return self.held_bytes - before

    def shorten(self, lines: int, most_bytes: int) -> int:
        """Keep the last *lines*, no more than *most_bytes* of them but the last; return how much was let go of."""
        before = self.held_bytes
        while len(self.lines) > lines or (self.held_bytes > most_bytes and len(self.lines) > 1):
            self.held_bytes -= _size(self.lines.popleft())
        return before - self.held_bytes


def _size(record: LogRecord) -> int:
    return len(record.text) + LINE_BYTES


def _of_latest(held: OrderedDict[str, _T], service: str, new: Callable[[], _T]) -> _T:
    """Return what is *held* for *service*, or a *new* one in the place of the one not asked for the longest."""
    if service not in held:
        held[service] = new()
        if len(held) > SERVICES_KEPT:
            held.popitem(last=False)
    held.move_to_end(service)
    return held[service]


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
