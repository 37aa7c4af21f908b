"""The device as one VDevice has it: one thread that computes and calls back."""

from __future__ import annotations

import queue
import threading  # noqa: TID251 - the real library calls back from a thread of its own
from collections.abc import Callable
from typing import Any

from .. import bench  # noqa: TID252 - the package is found under a name that is not ours
from ._pyhailort import HailoRTStatusException, SchedulingAlgorithm

INVALID_OPERATION = 6


class Chip:
    """The device as one VDevice has it: a queue of jobs and the thread that does them."""

    def __init__(self, algorithm: SchedulingAlgorithm) -> None:
        self.scheduled = algorithm is SchedulingAlgorithm.ROUND_ROBIN
        self._active: Any = None
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="fake-hailo", daemon=True).start()

    def begin(self, job: Callable[[], None]) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def activate(self, model: Any) -> None:
        """Give the whole chip to one model."""
        if self.scheduled or self._active is not None:
            raise HailoRTStatusException(INVALID_OPERATION)
        self._active = model
        model._active = True  # noqa: SLF001 - the halves of one thing

    def forget(self, model: Any) -> None:
        """Take the chip back from a model."""
        if self._active is model:
            self._active = None
        model._active = False  # noqa: SLF001 - the halves of one thing

    def close(self) -> None:
        """End the thread after what is queued."""
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - a user's callback raised: the real one prints and goes on
                bench.note("callback raised", repr(error))
