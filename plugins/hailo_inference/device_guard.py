"""Waiting for calls into a library that may never return."""

from __future__ import annotations

import queue
import threading  # noqa: TID251 - a thread that may be left behind; the pool's are waited for
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .device_lost import DeviceLostError

T = TypeVar("T")
_Work = tuple[Callable[[], Any], "queue.SimpleQueue[tuple[Any, BaseException | None]]"]


@dataclass
class Guard:
    """A thread that makes the calls. One that does not return keeps it; then nothing is called by it any more."""

    name: str
    stuck: str = ""
    _orders: queue.SimpleQueue[_Work | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def call(self, work: Callable[[], T], *, limit_s: float, doing: str) -> T:
        """Return what *work* returns, or raise what it raises. DeviceLostError if it takes longer than *limit_s*.

        For one caller at a time.
        """
        if self.stuck:
            raise DeviceLostError(f"Hailo: the library hangs: {self.stuck}", remedy="journalctl -k -g hailo")
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
            self._thread.start()
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._orders.put((work, answer))
        try:
            value, error = answer.get(timeout=limit_s)
        except queue.Empty:
            self.stuck = doing
            raise DeviceLostError(
                f"Hailo: {doing}: the library has not returned within {limit_s:g} s",
                remedy="journalctl -k -g hailo; restart the machine if it stays so",
            ) from None
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return] # what work returned

    def end(self) -> None:
        """Let the thread end once it has nothing more to do."""
        self._orders.put(None)

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            work, answer = order
            try:
                answer.put((work(), None))
            except BaseException as error:  # noqa: BLE001 - goes to the caller, whatever it is
                answer.put((None, error))
