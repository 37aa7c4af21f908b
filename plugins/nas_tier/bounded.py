"""Blocking calls that may hang for ever, as on a hard NFS mount whose server is dead.

A call that takes too long is given up, but its thread cannot be: it stays until the kernel lets go of it. So there are
just so many threads, and when all of them hang, calls are refused at once. They are daemons, unlike anyio's own: those
are waited for when the process ends, which it then never would.
"""

from __future__ import annotations

import queue
import threading  # noqa: TID251 - see above
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel

from sparkd import CallError, CallErrorKind

T = TypeVar("T")
REMEDY = "look at the NAS, its mount and the network"


class BoundedThreads:
    """Runs calls in threads of its own."""

    def __init__(self, count: int, *, limit_s: float, where: str) -> None:
        """Use *count* threads for calls on *where*, each of which may take *limit_s*."""
        self._count = count
        self._limit_s = limit_s
        self._where = where
        self._free = anyio.Semaphore(count)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = self._busy = 0
        self.hanging = 0
        """Calls that were given up and have not ended yet."""

    async def run(self, call: Callable[..., T], *given: object, limit_s: float | None = None) -> T:
        """Return what *call* returns. Raises CallError if it takes too long, or what it raises.

        After that it may end, and do what it does, at any later time.
        """
        if self.hanging >= self._count:
            text = f"{self._where}: all of {self._count} calls under way hang"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy=REMEDY)
        with anyio.move_on_after(self._limit_s if limit_s is None else limit_s):
            await self._free.acquire()
            job = _Job(partial(call, *given), self._ended)
            self._hand_over(job)
            try:
                await job.done.wait()
            finally:
                if not job.done.is_set():
                    job.given_up = True
                    self.hanging += 1
            if job.error is not None:
                raise job.error
            value: T = job.value
            return value
        raise CallError(CallErrorKind.DEADLINE, f"{self._where} does not answer", remedy=REMEDY)

    def close(self) -> None:
        """Let threads go that do not hang."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _hand_over(self, job: _Job) -> None:
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            name = f"{self._where} {self._threads}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)

    def _ended(self, job: _Job) -> None:
        """Note that a call has ended; runs on the event loop."""
        self._busy -= 1
        self._free.release()
        if job.given_up:
            self.hanging -= 1
        job.done.set()


class _Job:
    """A call, and what came of it."""

    def __init__(self, call: Callable[[], Any], ended: Callable[[_Job], None]) -> None:
        self._call = call
        self._ended = ended
        self._loop = anyio.lowlevel.current_token()
        self.done = anyio.Event()
        self.given_up = False
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, in a thread."""
        try:
            self.value = self._call()
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was asked for
            self.error = error
        try:
            anyio.from_thread.run_sync(self._ended, self, token=self._loop)
        except anyio.RunFinishedError:
            return  # the loop is over, and nobody asks


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
