"""Which loops were blocked, and where: those of the services, as their hosts say, and the core's own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from sparkd.blocked import Blocks, tell_of_blocks
from sparkd.conditions import BlockedLoop
from sparkd.service import Isolation
from sparkd.supervisor import Supervised

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

CORE = "core"


class BlockedLoops:
    """What is known of each loop that was ever blocked."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Blocks, float]] = {}

    def add(self, name: str, more: Blocks) -> None:
        """Take note that the loop of *name* was blocked."""
        before, _ = self._found.get(name, (Blocks(), 0.0))
        self._found[name] = before.and_then(more), time.time()

    def of(self, name: str, *, service: str = "") -> BlockedLoop | None:
        """Return what status says of the loop of *name*; None if it was never blocked."""
        if name not in self._found:
            return None
        blocks, at = self._found[name]
        return BlockedLoop(**asdict(blocks), at=at, service=service)

    def metrics(self) -> Iterator[Metric]:
        """Return the figures for Prometheus."""
        count = CounterMetricFamily("sparkd_loop_blocks", "Times a loop was blocked over 100 ms.", labels=["name"])
        seconds = CounterMetricFamily("sparkd_loop_blocked_seconds", "Time it was.", labels=["name"])
        for name, (blocks, _) in list(self._found.items()):
            count.add_metric([name], blocks.count)
            seconds.add_metric([name], blocks.seconds)
        yield from (count, seconds)


def of_core(core: Core) -> BlockedLoop | None:
    """Return what status says of the core's own loop, and which inline service blocked it."""
    blocked = core.blocks.of(CORE)
    if blocked is None:
        return None
    owner = next((one.name for one in _inline(core) if _is_beneath(blocked.file, str(one.plan.source.home))), "")
    return core.blocks.of(CORE, service=owner)


async def name_core_blocks(core: Core, begun: Callable[[], None]) -> None:
    """Name what blocks the core's own loop; an inline service cannot be killed for it."""

    async def tell(blocks: Blocks) -> None:
        core.blocks.add(CORE, blocks)

    begun()
    while not core.ready:  # what the core does before keeps nobody waiting
        await core.synced.wait()
        await core.supervisor.attempted()
    await tell_of_blocks(CORE, partial(_homes, core), tell)


def _homes(core: Core) -> list[Path]:
    return [service.plan.source.home for service in _inline(core)]


def _inline(core: Core) -> list[Supervised]:
    """Return the services that run in the core. Called in another thread too."""
    return [one for one in list(core.supervisor.services.values()) if one.plan.isolation is Isolation.INLINE]


def _is_beneath(file: str, home: str) -> bool:
    return file == home or file.startswith(f"{home}{os.sep}")
