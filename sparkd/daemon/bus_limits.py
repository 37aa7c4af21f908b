"""The bus at its limits: what the config allows each service, and readers that do not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkd.bus import SUB, BusLimits, Cut, QueueWatch
from sparkd.config import BusConfig

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


def bus_limits(config: BusConfig) -> BusLimits:
    """Return what *config* allows a service."""
    return BusLimits(
        high_water=config.high_water_messages,
        flood_messages_per_s=config.flood_messages_per_s,
        flood_bytes_per_s=config.flood_bytes_per_s,
    )


def queue_watch(core: Core) -> QueueWatch:
    """Return what keeps the broker's queues within their bound, once it runs."""

    def tell(cut: Cut) -> None:
        if core.complaints.passes(f"bus reader {cut.program}") is not None:
            why = f"more than {core.config.bus.queue_max_bytes} bytes waited ([bus] queue_max_bytes)"
            core.log.warning("bus: reader cut off, it does not read", pid=cut.pid, program=cut.program, why=why)

    return QueueWatch(core.places.runtime / SUB, core.config.bus.queue_max_bytes, on_cut=tell)


async def bound_queues(core: Core, begun: Callable[[], None]) -> None:
    """Cut off readers that do not read while what waits for them takes too much memory."""
    begun()
    await core.queues.run()
