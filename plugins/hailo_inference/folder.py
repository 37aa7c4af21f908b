"""The watched folder: each picture in it becomes one durable `Inference`, exactly once.

The order is what makes it so: look; publish, which returns when the event is synced in the outbox; write down that the
picture is dealt with; then delete or move its file. Dying before the publish repeats the picture; dying after it
repeats the publish with the same key, which stores nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import Context, Privacy, StorageError, reached

from .config import HailoInferenceConfig
from .processed import Processed
from .sources import Arrival, examine, settle, watching
from .vision import Engine, Meters

ATTEMPTS = 5
"""A picture during which the process died so often is refused."""

RETRY_MAX_S = 60.0
FORGET_EVERY = 10_000


@dataclass(slots=True)
class Folder:
    """A folder being watched for one engine."""

    ctx: Context[HailoInferenceConfig]
    path: Path
    engine: Engine
    meters: Meters
    processed: Processed
    stuck: bool = False
    """Whether the last file could not be moved or deleted."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Take every picture there is and every one that comes. Raises DeviceError if the folder is not there."""
        async with watching(self.path) as names:
            task_status.started()
            taken = 0
            async for name in names:
                if taken % FORGET_EVERY == 0:
                    await self._forget()
                taken += 1
                await self.take(name)

    async def take(self, name: str) -> None:
        """Deal with the picture called *name*, if that has not been done yet."""
        look = partial(examine, processed=self.processed, max_bytes=self.ctx.config.max_bytes, now_ns=time.time_ns())
        try:
            arrival = await anyio.to_thread.run_sync(look, self.path, name)
        except OSError as error:
            self.meters.refused(origin="folder", outcome="unreadable")
            self.ctx.log.warning("picture-unreadable", picture=printable(name), reason=error.strerror)
            return
        if arrival is None:
            return
        if not arrival.known:
            arrival = await self._deal_with(arrival)
        await self._settle(arrival)

    async def _deal_with(self, arrival: Arrival) -> Arrival:
        problem = arrival.problem or await self._look_and_publish(arrival)
        if problem:
            self.meters.refused(origin="folder", outcome="bad")
            self.ctx.log.warning("picture-refused", picture=printable(arrival.name), reason=problem)
        remember = partial(self.processed.remember, arrival.key, arrival.name, arrival.stamp, problem=problem)
        await self._until_stored(partial(_finish, remember))
        return replace(arrival, problem=problem)

    async def _look_and_publish(self, arrival: Arrival) -> str:
        before = await anyio.to_thread.run_sync(self.processed.begin, arrival.key)
        if before >= ATTEMPTS:
            return f"the service died {before} times while looking at it"
        try:
            inference = await self.engine.look(
                arrival.content, source=printable(arrival.name), source_ns=arrival.seen_ns
            )
        except ValueError as error:
            return str(error)
        reached("inference.after-infer")
        privacy = Privacy.parse(self.ctx.config.privacy)
        await self._until_stored(partial(self.ctx.bus.publish, inference, privacy=privacy, key=arrival.key))
        reached("inference.after-append")
        self.meters.looked(inference, origin="folder")
        return ""

    async def _until_stored(self, store: Callable[[], Awaitable[None]]) -> None:
        delay_s = 0.0
        while True:
            try:
                await store()
            except StorageError as error:  # a full disk: the picture waits, and calls are still answered
                self.ctx.degraded(
                    f"results cannot be stored, pictures wait: {error}", remedy="make room on the disk of the state"
                )
                delay_s = min(2 * delay_s, RETRY_MAX_S) or 1.0
                await anyio.sleep(delay_s)
            else:
                if delay_s:
                    self.ctx.recovered()
                return

    async def _settle(self, arrival: Arrival) -> None:
        try:
            await anyio.to_thread.run_sync(partial(settle, self.path, arrival, after=self.ctx.config.after))
        except OSError as error:
            self.stuck = True
            self.ctx.degraded(
                f"{self.path} does not allow `after = {self.ctx.config.after!r}`: {error.strerror}",
                remedy="let the daemon's user write to the folder, or set after = 'keep'",
            )
        else:
            if self.stuck:
                self.stuck = False
                self.ctx.recovered()

    async def _forget(self) -> None:
        try:
            await anyio.to_thread.run_sync(self.processed.forget_gone, self.path)
        except StorageError as error:  # it only grows a little further
            self.ctx.log.warning("record-not-trimmed", reason=str(error))


async def _finish(work: Callable[[], None]) -> None:
    """Do *work* to its end, also when the service is being stopped: what is published is written down."""
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(work)


def printable(name: str) -> str:
    """Return a file name as valid text; names on disk are bytes and need not be."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
