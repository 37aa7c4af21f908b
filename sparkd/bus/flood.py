"""How much one publisher may send: a bound that a service in a tight loop meets, and no other does.

Theory of operation: two token buckets, one of messages and one of bytes, each holding a second's worth. They are
filled only when one of them is empty, so that an event within the bounds costs two subtractions and no look at a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import msgspec

BURST_S = 1.0
"""What may be sent at once after a rest, in seconds of the lasting rate."""


class BusLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The bounds of one client of the bus; 0 for none. `[bus]` of the config has them, and each plugin's table."""

    high_water: int = 10_000
    """Messages queued on the way before the bus drops."""
    flood_messages_per_s: float = 0.0
    flood_bytes_per_s: float = 0.0
    shm_max_bytes: int = 0
    """What all services of the node may keep in shared memory; 0 for no shared memory."""


class Allowance:
    """What a publisher may send now. Not for threads."""

    __slots__ = ("_bytes", "_bytes_per_s", "_clock", "_filled", "_messages", "_messages_per_s")

    def __init__(
        self, messages_per_s: float, bytes_per_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow a lasting *messages_per_s* and *bytes_per_s*, 0 for any; *clock* counts seconds."""
        self._messages_per_s = messages_per_s or float("inf")
        self._bytes_per_s = bytes_per_s or float("inf")
        self._clock = clock
        self._filled = clock()
        self._messages = self._messages_per_s * BURST_S
        self._bytes = self._bytes_per_s * BURST_S

    def take(self, size: int) -> bool:
        """Take one message of *size* bytes off the allowance; return False, and take nothing, if it has not enough."""
        if self._messages < 1 or self._bytes < size:
            self._fill()
            if self._messages < 1 or self._bytes < min(size, self._bytes_per_s * BURST_S):
                return False
        self._messages -= 1
        self._bytes -= size  # below zero for what is larger than a whole bucket: it waits for the next
        return True

    async def wait(self, size: int) -> None:
        """Take one message of *size* bytes off the allowance, as soon as it has enough."""
        while not self.take(size):  # noqa: ASYNC110 - what fills it is time itself
            await anyio.sleep(self._lacking_s(size))

    def _lacking_s(self, size: int) -> float:
        size = int(min(size, self._bytes_per_s * BURST_S))
        return max((1 - self._messages) / self._messages_per_s, (size - self._bytes) / self._bytes_per_s, 0.001)

    def _fill(self) -> None:
        now = self._clock()
        passed, self._filled = now - self._filled, now
        self._messages = _filled(self._messages, passed, self._messages_per_s)
        self._bytes = _filled(self._bytes, passed, self._bytes_per_s)


def _filled(held: float, passed_s: float, per_s: float) -> float:
    return min(held + passed_s * per_s, per_s * BURST_S)
