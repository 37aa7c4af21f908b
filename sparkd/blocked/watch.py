"""Naming what blocks an event loop: a thread that sleeps while the loop does, and looks while the loop is at work.

Theory of operation. While the loop sleeps so does the thread, in the kernel. When the loop wakes up, libuv tells us
once; that sets a timer. When the timer rings, the loop is asleep again (the usual case: have us told of its next
waking, and look once more), has gone on (look again later), or is where it was. In the last case the thread notes what
the loop's thread is doing, and looks every 25 ms until that has changed. A round of the loop that took longer than
`BLOCKED_S`, in which one and the same callback was seen for at least `HELD_S`, was blocked by it; a round of many short
callbacks was not. Time without a processor does not count. So an idle loop costs nothing, one that wakes up costs three
short wake-ups more at the most, and a busy one 40 looks a second, whatever it does.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - the event loop itself is watched
import contextlib
import os
import sys
import threading  # noqa: TID251 - what watches a loop cannot be a task on it
import time
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import anyio
import anyio.lowlevel

from sparkd.blocked.probe import Alarm, Look, Probe

BLOCKED_S = 0.1
LOOK_S = 0.025
HELD_S = 0.07
"""Three looks at the same callback, less what the timer may be late."""
LONG_S = 2.0
"""A block that may never end is told of before it does: in the core nobody else would say where."""
STACK_BYTES = 512 << 10
JOIN_S = 1.0

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    """One round of a loop that took too long."""

    seconds: float
    file: str
    line: int
    over: bool = True
    """False for one that is told of while it lasts, because it has lasted `LONG_S`."""


@dataclass(slots=True)
class _Seen:
    """A callback that the loop was found in."""

    callback: types.FrameType
    since: float
    last: float
    places: Counter[Place] = field(default_factory=Counter)
    told: bool = False

    def place(self) -> Place:
        """Return where it was found most often."""
        return self.places.most_common(1)[0][0]


class _State(Enum):
    """Whether we are told when the loop wakes up."""

    AWAKE = 1  # we were
    ASKED = 2  # the loop was asked to see to it
    ARMED = 3


@dataclass(frozen=True, slots=True)
class _Mark:
    """A look that later ones are compared with."""

    at: float
    look: Look
    starved_s: float


class LoopWatch:
    """Watches one loop."""

    def __init__(self, on_block: Callable[[Block], None], homes: Callable[[], list[str]]) -> None:
        """Tell *on_block*, in the watching thread, of each block; what it blames lies beneath one of *homes*."""
        self._on_block, self._homes = on_block, homes
        self._loop = asyncio.get_running_loop()
        self._thread, self._waits = threading.get_ident(), _Waits(threading.get_native_id())
        self._runner = _runner()
        self._alarm = Alarm()
        self._mark = _Mark(0.0, (0, 0), 0.0)
        self._due = 0.0
        self._seen: _Seen | None = None
        self._armed = True
        self._closing = False
        self._watcher = threading.Thread(target=self._watch, name="loop-watch", daemon=True)
        self._probe = Probe.of(self._loop, self._woke)

    @property
    def works(self) -> bool:
        """Whether this loop can be watched."""
        return self._probe is not None

    def start(self) -> None:
        """Begin. For the loop's thread."""
        if self._probe is not None:
            before = threading.stack_size(STACK_BYTES)
            self._watcher.start()
            threading.stack_size(before)
            self._probe.arm()

    async def close(self) -> None:
        """End. For the loop's thread."""
        self._closing = True
        if self._probe is not None:
            self._probe.close()
            self._alarm.set(1e-9)
            self._watcher.join(JOIN_S)
            await anyio.lowlevel.checkpoint()  # libuv forgets a closed handle at the end of the round
        if not self._watcher.is_alive():
            self._alarm.close()
            self._waits.close()

    def _woke(self) -> None:
        assert self._probe is not None  # noqa: S101 - it is what calls this
        self._state = _State.AWAKE
        if self._seen is None:  # else the thread has yet to see that a round is over
            self._mark = _Mark(time.monotonic(), self._probe.look(), self._waits.seconds())
            self._ring()

    def _ring(self) -> None:
        self._due = time.monotonic() + LOOK_S
        self._alarm.set(LOOK_S)

    def _watch(self) -> None:
        while True:
            self._alarm.wait()
            if self._closing:
                return
            self._look()

    def _look(self) -> None:
        assert self._probe is not None  # noqa: S101 - the thread runs only with it
        now, look = time.monotonic(), self._probe.look()
        if look == self._mark.look:
            self._hold(now)
        else:
            mark, self._mark = self._mark, _Mark(now, look, self._waits.seconds())
            if self._seen is not None:
                self._release(mark, self._seen)
            if self._probe.is_asleep() and self._rests():
                return
        self._ring()

    def _rests(self) -> bool:
        """Whether we are told when the loop, which sleeps now, wakes up; if not, see that we will be.

        Until it is found asleep after that we go on looking: it may have woken just now, and be blocked.
        """
        if self._state is _State.AWAKE:
            self._state = _State.ASKED
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._arm)
        return self._state is _State.ARMED

    def _arm(self) -> None:
        if not self._closing and self._probe is not None:
            self._state = _State.ARMED
            self._probe.arm()

    def _hold(self, now: float) -> None:
        """Note what the loop is doing: it is in the round that it was in at the last look.

        If this look is late, the callback had the interpreter to itself meanwhile, and it is the one that is found.
        """
        innermost = sys._current_frames()[self._thread]  # noqa: SLF001 - the interpreter's only way to see them
        callback = _outermost(innermost, self._runner)
        if callback is None:  # between callbacks, or in one without code in Python
            self._seen = None
            return
        if self._seen is None or self._seen.callback is not callback:
            self._seen = _Seen(callback, min(now, self._due), now)
        self._seen.last = now
        self._seen.places[_own(innermost, self._runner, self._homes()) or _place(innermost)] += 1
        if now - self._mark.at >= LONG_S and not self._seen.told:
            self._seen.told = True
            self._on_block(Block(now - self._mark.at, *self._seen.place(), over=False))

    def _release(self, mark: _Mark, seen: _Seen) -> None:
        """Tell of a block, if it was one: the round that began before *mark* is over."""
        self._seen = None
        now, slept_s = self._mark, (self._mark.look[1] - mark.look[1]) / 1e9
        spared_s = slept_s + now.starved_s - mark.starved_s
        if now.at - mark.at - spared_s >= BLOCKED_S and seen.last - seen.since >= HELD_S:
            self._on_block(Block(now.at - mark.at - spared_s, *seen.place()))


def _runner() -> types.FrameType | None:
    """Return the frame that runs the loop: the one beneath all callbacks."""
    task = asyncio.current_task()
    frame: types.FrameType | None = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    return frame.f_back if frame is not None else None


def _outermost(frame: types.FrameType, runner: types.FrameType | None) -> types.FrameType | None:
    """Return the frame of the callback that *frame* is in: the one that the runner called; None if there is none."""
    while frame is not runner and frame.f_back is not None:
        if frame.f_back is runner:
            return frame
        frame = frame.f_back
    return None


def _own(innermost: types.FrameType, runner: types.FrameType | None, homes: list[str]) -> Place | None:
    """Return the innermost line beneath one of *homes*, from *innermost* out to the runner."""
    frame: types.FrameType | None = innermost
    while frame is not None and frame is not runner:
        file = frame.f_code.co_filename
        if any(file == home or file.startswith(f"{home}{os.sep}") for home in homes):
            return _place(frame)
        frame = frame.f_back
    return None


def _place(frame: types.FrameType) -> Place:
    return frame.f_code.co_filename, frame.f_lineno


class _Waits:
    """How long a thread has waited for a processor so far."""

    def __init__(self, task: int) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # a kernel that does not say: then all time counts
            self._descriptor = os.open(f"/proc/self/task/{task}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        if self._descriptor is None:
            return 0.0
        return int(os.pread(self._descriptor, 64, 0).split()[1]) / 1e9

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


@asynccontextmanager
async def watch_loop(on_block: Callable[[Block], None], homes: Callable[[], list[str]]) -> AsyncIterator[bool]:
    """Watch the running loop until the context is left; gives whether it can be watched.

    *on_block* is told, in another thread, of each block when it is over, and of a long one while it lasts as well.
    *homes* returns the files and folders whose code is blamed before the code it calls. Raises OSError if the kernel
    gives no timer.
    """
    watch = LoopWatch(on_block, homes)
    watch.start()
    try:
        yield watch.works
    finally:
        with anyio.CancelScope(shield=True):
            await watch.close()
