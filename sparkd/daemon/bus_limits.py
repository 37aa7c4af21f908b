"""The bus at its limits: what the config allows each service, and readers that do not read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from sparkd.bus import SUB, BusLimits, Cut, QueueWatch
from sparkd.config import BusConfig
from sparkd.daemon import report
from sparkd.shm import FOLDER, make_root, sweep

if TYPE_CHECKING:
    from sparkd.daemon.core import Core


READ_ON_S = 1.0
"""For readers to open what a service sent just before it ended."""
LOOK_AGAIN_S = 5.0
"""For a reader to let go of what a service that is gone has left; nothing tells of it."""
_TMPFS = "tmpfs"


def bus_limits(config: BusConfig) -> BusLimits:
    """Return what *config* allows a service."""
    return BusLimits(
        high_water=config.high_water_messages,
        flood_messages_per_s=config.flood_messages_per_s,
        flood_bytes_per_s=config.flood_bytes_per_s,
        shm_max_bytes=config.shm_max_bytes,
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


async def make_shared(core: Core) -> None:
    """Make the folder for shared memory, and empty it of what a daemon that was killed has left. Raises OSError."""
    runtime = core.places.runtime
    gids = report.group_ids(core.config.bus.readers_group)
    root = make_root(runtime, gid=next(iter(gids), None))
    await to_thread.run_sync(lambda: sweep(root, alone=True))
    kind = file_system(runtime)
    if core.config.bus.shm_max_bytes and kind not in {_TMPFS, ""}:
        core.log.info("shared memory lies on a disk, not on tmpfs", folder=root, file_system=kind)


async def sweep_shared(core: Core, begun: Callable[[], None]) -> None:
    """Remove what services that have ended left in shared memory."""
    begun()
    root = core.places.runtime / FOLDER
    while True:
        await core.left_behind.wait()
        core.left_behind = anyio.Event()
        await anyio.sleep(READ_ON_S)
        while await to_thread.run_sync(sweep, root):  # noqa: ASYNC110 - no event: only its reader knows
            await anyio.sleep(LOOK_AGAIN_S)


def file_system(path: Path) -> str:
    """Return the type of the file system that *path* is on, such as `tmpfs`; nothing if it cannot be told."""
    device = path.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == f"{os.major(device)}:{os.minor(device)}":
            return rest.split()[0]
    return ""
