"""The service: look at the machine at an interval, say what was seen and whether it is well."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import Context, DeviceError, NodeHealth, StorageError

from .config import NodeTelemetryConfig
from .device import Machine, Sample
from .policy import Health, assess, worth_saying


async def run(ctx: Context[NodeTelemetryConfig], *, task_status: TaskStatus[None]) -> None:
    """Publish until cancelled. Raises DeviceError if psutil is missing, or the machine does not let itself be read."""
    machine = await anyio.to_thread.run_sync(Machine, ctx.config)
    reporter = Reporter(ctx)
    task_status.started()
    due = anyio.current_time()
    while True:
        await reporter.report(await look(machine, limit_s=ctx.config.read_limit_s))
        # A slot that was missed (the machine slept, a look took long) is skipped, not made up for.
        due = max(due + ctx.config.interval_s, anyio.current_time())
        await anyio.sleep_until(due)


async def look(machine: Machine, *, limit_s: float) -> Sample:
    """Return a sample, taken in a thread. Raises DeviceError if that takes longer than *limit_s*."""
    try:
        with anyio.fail_after(limit_s):
            return await anyio.to_thread.run_sync(machine.sample, abandon_on_cancel=True)
    except TimeoutError:
        raise DeviceError(
            f"reading the machine took more than {limit_s:.0f} s",
            remedy="look for a disk that hangs (dmesg), or add its mount point to ignore_mounts",
        ) from None


@dataclass(slots=True)
class Reporter:
    """Publishes samples. Remembers the health between them, and when it was last said."""

    ctx: Context[NodeTelemetryConfig]
    health: Health = field(default_factory=Health)
    unsaid: int | None = None
    """Samples since the health was last published; None if it never was."""
    storing: bool = True

    async def report(self, sample: Sample) -> None:
        """Publish *sample*, and the node's health if it changed or its turn has come.

        Health goes first: the disk that is full may be the one that telemetry is stored on.
        """
        after = assess(self.health, sample.telemetry, sample.throttled, self.ctx.config)
        turn = self.unsaid is None or self.unsaid + 1 >= self.ctx.config.health_every
        if turn or worth_saying(self.health, after):
            sentences = [problem.sentence for problem in after.problems]
            await self.ctx.bus.publish(NodeHealth(ok=not sentences, problems=sentences, throttled=after.throttled))
            self.unsaid = 0
        else:
            self.unsaid = (self.unsaid or 0) + 1
        self.health = after
        await self._store(sample)

    async def _store(self, sample: Sample) -> None:
        try:
            await self.ctx.bus.publish(sample.telemetry)
        except StorageError as error:
            self.storing = False
            self.ctx.degraded(
                f"telemetry cannot be stored, samples are lost: {error}",
                remedy="make room on the disk of the outbox",
            )
        else:
            if not self.storing:
                self.storing = True
                self.ctx.recovered()
