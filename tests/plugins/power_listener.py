"""Whom a power source tells in tests: it keeps all, and can be waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from sparkd import PowerReading
from sparkd_plugins.power_monitor.source import Source


@dataclass
class Heard:
    """A listener."""

    whats: list[str] = field(default_factory=list)
    readings: list[PowerReading] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)

    def found(self, what: str) -> None:
        self.whats.append(what)
        self._tell()

    def reading(self, reading: PowerReading) -> None:
        self.readings.append(reading)
        self._tell()

    def garbage(self, reason: str) -> None:
        self.bad.append(reason)
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    @property
    def last(self) -> PowerReading:
        return self.readings[-1]

    async def until(self, wanted: Callable[[Heard], object], *, limit_s: float = 10.0) -> None:
        """Wait until what was heard is *wanted*."""
        with anyio.fail_after(limit_s):
            while not wanted(self):
                await self.news.wait()


@asynccontextmanager
async def watching(source: Source) -> AsyncIterator[Heard]:
    """Watch *source* while the block runs."""
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.watch, heard)
        yield heard
        tasks.cancel_scope.cancel()
