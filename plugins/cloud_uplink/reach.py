"""Whether records can get out: one back-off for all lanes, ended at once when the link comes up."""

from __future__ import annotations

from typing import Any

import anyio

from sparkd import CallError, Context, StorageError

from .policy import retry_delay_s


class Reach:
    """What all lanes know of the target. A failed round delays them all, and counts once."""

    def __init__(self, ctx: Context[Any], *, target: str, least_s: float, most_s: float) -> None:
        """Speak of *target*; wait between *least_s* and *most_s* between rounds."""
        self.failures = 0
        self._ctx = ctx
        self._target = target
        self._least_s, self._most_s = least_s, most_s
        self._next_try = 0.0
        self._hurried = anyio.Event()

    async def ready(self) -> None:
        """Return when it is time to try."""
        while (left_s := self._next_try - anyio.current_time()) > 0:
            with anyio.move_on_after(left_s):
                await self._hurried.wait()

    def failed(self, error: CallError | StorageError) -> None:
        """Say that an attempt failed: the target, the link, or the disk of either."""
        now = anyio.current_time()
        if now < self._next_try:
            return
        reason, remedy = self._explain(error)
        if not self.failures:
            self._ctx.log.warning("records cannot get out", target=self._target, error=str(error))
        self.failures += 1
        self._next_try = now + retry_delay_s(self.failures, least_s=self._least_s, most_s=self._most_s)
        self._ctx.degraded(f"{reason}; records are kept here", remedy=remedy)

    def worked(self) -> None:
        """Say that a batch has arrived and is passed."""
        if self.failures:
            self._ctx.log.info("records get out again", target=self._target, failures=self.failures)
            self.failures, self._next_try = 0, 0.0
            self._ctx.recovered()

    def hurry(self) -> None:
        """End the back-off: the link has come up."""
        self._next_try = 0.0
        self._hurried.set()
        self._hurried = anyio.Event()

    def _explain(self, error: CallError | StorageError) -> tuple[str, str]:
        if isinstance(error, StorageError):
            return f"the outbox cannot be used: {error}", "free space on the disk of the state directory"
        remedy = str(error.data.get("remedy", ""))
        return (
            f"{self._target}: {error.kind}: {error.message}",
            remedy or f"look at `sparkctl --node {self._target} status`",
        )
