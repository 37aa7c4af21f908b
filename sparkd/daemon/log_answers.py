"""`logs`: what the core and its services wrote, in memory and on disk, and how much they write."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

from anyio import to_thread

from sparkd.config import nearest
from sparkd.core_interfaces import LogRecord
from sparkd.daemon.levels import CORE
from sparkd.errors import CallError, CallErrorKind
from sparkd.logstore import MAX_READ_LINES, read_lines
from sparkd.service import Isolation

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


class LogsAnswers:
    """`logs`: the lines of every service."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def tail(
        self, *, service: str = "", lines: int = 50, since: float = 0.0, level: int = 7, text: str = ""
    ) -> list[LogRecord]:
        """Return the last lines that fit, from memory and, where that does not reach back far enough, from disk."""
        held = [line for line in self._core.logbook.tail(service, MAX_READ_LINES) if _fits(line, since, level, text)]
        if service and len(held) >= lines:
            return held[-lines:] if lines > 0 else []
        oldest: dict[str, float] = {}
        for line in held:
            oldest.setdefault(line.service, line.at)
        stored = await to_thread.run_sync(
            lambda: read_lines(
                self._core.log_store.folder, service=service, lines=lines, since=since, level=level, text=text
            )
        )
        older = [line for line in stored if line.at < oldest.get(line.service, math.inf)]
        return sorted([*older, *held], key=lambda line: line.at)[-lines:] if lines > 0 else []

    async def follow(self, *, service: str = "") -> AsyncIterator[LogRecord]:
        """Stream the lines as they come."""
        async for record in self._core.logbook.follow(service):
            yield record

    async def levels(self) -> dict[str, str]:
        """Return how much is logged of the core and of each service."""
        return self._core.levels.each(sorted(self._core.supervisor.services))

    async def set_level(
        self, *, level: Literal["debug", "info", "warning", "error"], service: str = ""
    ) -> dict[str, str]:
        """Log a service, `core` or all at *level* until the daemon restarts."""
        core, services = self._core, self._core.supervisor.services
        if service not in ("", CORE, *services):
            message = f"there is no service {service!r}; {nearest(service, [CORE, *services])}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="service")
        core.levels.set(service, level)
        if service != CORE:
            await core.ask_hosts(
                lambda host: host.set_log_level(level=level),
                lambda name: service in ("", name) and services[name].plan.isolation is not Isolation.INLINE,
            )
        core.log.info("log level set", service=service or "all", level=level)
        return await self.levels()


def _fits(line: LogRecord, since: float, level: int, text: str) -> bool:
    return line.at >= since and line.level <= level and text.casefold() in line.text.casefold()
