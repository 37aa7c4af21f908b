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
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import Context, DeviceError, Inference, Privacy, StorageError, Troubles, reached

from .config import HailoInferenceConfig
from .processed import Processed
from .sources import Arrival, examine, settle, watching
from .vision import Meters

ATTEMPTS = 5
"""A picture during which the process died so often is refused."""

RETRY_MAX_S = 60.0
FORGET_EVERY = 10_000


class Looker(Protocol):
    """Whoever looks at pictures for a folder."""

    async def look(self, image: bytes, *, source: str, source_ns: int = 0) -> Inference:
        """Return what is in *image*. Raises ValueError if it is no picture, DeviceError if the runtime fails."""
        ...


@dataclass(slots=True)
class Folder:
    """A folder being watched for one model."""

    ctx: Context[HailoInferenceConfig]
    path: Path
    engine: Looker
    meters: Meters
    processed: Processed
    troubles: Troubles
    privacy: str = ""
    """Instead of what the config says for the folder to watch."""
    after: str = ""
    """Likewise."""

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
        except (DeviceError, anyio.get_cancelled_exc_class()):
            # The service ends by it, or by whoever else saw that the device is lost: the picture is not to blame.
            await _finish(self.processed.forgive)
            raise
        reached("inference.after-infer")
        privacy = Privacy.parse(self.privacy or self.ctx.config.privacy)
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
                reason = f"results cannot be stored, pictures wait: {error}"
                self.troubles.say(f"results {self.path}", reason, "make room on the disk of the state")
                delay_s = min(2 * delay_s, RETRY_MAX_S) or 1.0
                await anyio.sleep(delay_s)
            else:
                self.troubles.over(f"results {self.path}")
                return

    async def _settle(self, arrival: Arrival) -> None:
        after = self.after or self.ctx.config.after
        try:
            await anyio.to_thread.run_sync(partial(settle, self.path, arrival, after=after))
        except OSError as error:
            reason = f"{self.path} does not allow `after = {after!r}`: {error.strerror}"
            remedy = "let the daemon's user write to the folder, or set after = 'keep'"
            self.troubles.say(f"after {self.path}", reason, remedy)
        else:
            self.troubles.over(f"after {self.path}")

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
