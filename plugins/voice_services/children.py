"""Engines as child processes: one request at a time each, killed when they hang, started again with back-off.

A `Pool` holds up to so many children of one engine. A request waits for its turn, is refused when too many wait, and
has a child to itself. After anything but success the child is killed: nobody knows what it would say next.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import Process, TaskGroup, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from sparkd import CallError, CallErrorKind, DeviceError

BACKOFF_MIN_S = 1.0
BACKOFF_MAX_S = 60.0
MAX_LINE_BYTES = 1 << 20
SLOW = "a smaller model, more threads, or a later deadline_s"
DEAD = "see what it said in the log of this service; memory is the usual reason"

T = TypeVar("T")


class ChildDiedError(DeviceError):
    """A child died over a request, or before it without anybody having heard of it yet."""


class Child:
    """A running child and the pipes to it. Every wait ends at `until`, the deadline of the request that has it."""

    def __init__(self, name: str, process: Process, until: float) -> None:
        """Talk to *process*, called *name*, until the time *until* of the loop's clock."""
        self.name = name
        self.until = until
        self.idle_since = 0.0
        self.resting = False
        """Whether it has answered all that it was asked: then it may be kept even if its request is given up."""
        self.process = process
        if process.stdout is None or process.stdin is None:
            raise ValueError("a child is talked to by pipes")
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)

    @property
    def alive(self) -> bool:
        """Whether it runs, asked of the kernel: the loop hears of a death a moment later."""
        if self.process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    async def send(self, data: bytes) -> None:
        """Write *data*. Raises DeviceError if the child died or does not read."""
        await self._within(partial(self._stdin.send, data))

    async def line(self) -> bytes:
        """Return its next line. Raises DeviceError if the child died or hangs."""
        return await self._within(partial(self._stdout.receive_until, b"\n", MAX_LINE_BYTES))

    async def _within(self, deed: Callable[[], Awaitable[T]]) -> T:
        try:
            with anyio.fail_after(max(0.0, self.until - anyio.current_time())):
                return await deed()
        except TimeoutError:
            raise DeviceError(f"{self.name} hangs: no answer by the deadline", remedy=SLOW) from None
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise ChildDiedError(f"{self.name} {await self._death()}", remedy=DEAD) from None
        except anyio.DelimiterNotFound:
            raise DeviceError(f"{self.name}: a line without an end") from None

    async def _death(self) -> str:
        with anyio.move_on_after(2):
            code = await self.process.wait()
            return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "closed its end and runs on"

    async def kill(self) -> None:
        """End it now, whatever it does."""
        with suppress(ProcessLookupError):
            self.process.kill()
        with anyio.move_on_after(5, shield=True):
            await self.process.aclose()


class Gate:
    """So many at once, so many more in line, the rest refused."""

    def __init__(self, name: str, *, at_once: int, max_waiting: int) -> None:
        """Let *at_once* through; *max_waiting* may wait."""
        self._name = name
        self._places = anyio.Semaphore(at_once)
        self._max_waiting = max_waiting
        self.waiting = 0

    @asynccontextmanager
    async def turn(self, deadline_s: float) -> AsyncIterator[None]:
        """Have a turn. Raises CallError if too many wait, or if it does not come within *deadline_s*."""
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            await self._wait(deadline_s)
        try:
            yield
        finally:
            self._places.release()

    async def _wait(self, deadline_s: float) -> None:
        if self.waiting >= self._max_waiting:
            raise CallError(
                CallErrorKind.UNAVAILABLE,
                f"{self._name} is overloaded: {self.waiting} requests wait",
                remedy="call again in a second, or give it more workers",
            )
        self.waiting += 1
        try:
            with anyio.fail_after(deadline_s):
                await self._places.acquire()
        except TimeoutError:
            raise CallError(CallErrorKind.DEADLINE, f"{self._name}: no turn within {deadline_s:g} s") from None
        finally:
            self.waiting -= 1


class _Loading:
    """A child on its way."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.child: Child | None = None
        self.problem: DeviceError | None = None


class Pool:
    """The children of one engine."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        greet: Callable[[Child], Awaitable[None]],
        *,
        gate: Gate,
        env: Mapping[str, str],
        start_limit_s: float,
        idle_unload_s: float,
        stderr: int | None = None,
    ) -> None:
        """Start children by *command*; *greet* returns once one has loaded."""
        self.name = name
        self._command = list(command)
        self._greet = greet
        self._gate = gate
        self._env = dict(env)
        self._start_limit_s = start_limit_s
        self._idle_unload_s = idle_unload_s
        self._stderr = stderr
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._left: list[_Loading] = []
        self._group: TaskGroup | None = None
        self._changed = anyio.Event()
        self._failures = 0
        self._retry_at = 0.0
        self.started = 0

    @property
    def loaded(self) -> int:
        """How many children there are."""
        return len(self._idle) + len(self._busy)

    @asynccontextmanager
    async def turn(self, deadline_s: float) -> AsyncIterator[Child]:
        """Have a child to oneself for *deadline_s* seconds. Raises CallError if overloaded, DeviceError if it fails."""
        async with self._gate.turn(deadline_s):
            child = self._take() or await self._start()
            child.until = anyio.current_time() + deadline_s
            self._busy.add(child)
            try:
                yield child
            except BaseException as error:
                if isinstance(error, DeviceError):
                    self._failed()
                if child.resting and not isinstance(error, DeviceError):
                    self._keep(child)
                else:
                    await child.kill()
                raise
            else:
                self._failures = 0
                self._keep(child)
            finally:
                self._busy.discard(child)

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Start children as they are wanted, end those idle for too long, until cancelled; then end them all."""
        try:
            async with anyio.create_task_group() as self._group:
                task_status.started()
                await self._unload_idle()
        finally:
            self._group = None
            with anyio.CancelScope(shield=True):
                for child in [*self._idle, *self._busy]:
                    await child.kill()
                self._idle.clear()

    async def _unload_idle(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            while self._idle and self._idle_unload_s:
                oldest = self._idle[0].idle_since + self._idle_unload_s
                await anyio.sleep(max(0.0, oldest - anyio.current_time()))
                await self._unload()

    async def _unload(self) -> None:
        now = anyio.current_time()
        for child in [child for child in self._idle if child.idle_since + self._idle_unload_s <= now]:
            self._idle.remove(child)
            await child.kill()

    def _keep(self, child: Child) -> None:
        child.resting = False
        child.idle_since = anyio.current_time()
        self._idle.append(child)
        self._changed.set()

    def _take(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()  # the one used last: its memory is warm, and the others may be unloaded
            if child.alive:
                return child
        return None

    def _failed(self) -> None:
        delay = min(BACKOFF_MIN_S * 2**self._failures, BACKOFF_MAX_S)
        self._failures += 1
        if self._failures > 1:  # one death is an accident: the next request may try at once
            self._retry_at = anyio.current_time() + delay

    async def _start(self) -> Child:
        """Return a new child once it has loaded. Whoever does not wait so long leaves it, loading, to the next."""
        loading = self._left.pop() if self._left else self._begin()
        try:
            await loading.done.wait()
        except BaseException:
            if loading.child is not None:
                self._keep(loading.child)
            elif not loading.done.is_set():
                self._left.append(loading)
            raise
        if loading.child is None:
            raise loading.problem or DeviceError(f"{self.name} is being stopped")
        return loading.child

    def _begin(self) -> _Loading:
        wait_s = self._retry_at - anyio.current_time()
        if wait_s > 0:
            raise DeviceError(f"{self.name} failed {self._failures} times; tried again in {wait_s:.0f} s", remedy=DEAD)
        if self._group is None:
            raise DeviceError(f"{self.name} is not running")
        loading = _Loading()
        self._group.start_soon(self._load, loading)
        return loading

    async def _load(self, loading: _Loading) -> None:
        try:
            loading.child = await self._loaded()
        except DeviceError as error:
            self._failed()
            loading.problem = error
        finally:
            loading.done.set()
            if loading in self._left:
                self._left.remove(loading)
                if loading.child is not None:
                    self._keep(loading.child)

    async def _loaded(self) -> Child:
        try:
            process = await anyio.open_process(self._command, stderr=self._stderr, env=self._env)
        except OSError as error:
            raise DeviceError(f"{self.name}: {error}", remedy="see whether it is installed") from error
        child = Child(self.name, process, anyio.current_time() + self._start_limit_s)
        self.started += 1
        try:
            await self._greet(child)
        except BaseException:
            await child.kill()
            raise
        return child


MERGED = subprocess.STDOUT
"""For a program that says on stderr what one wants to know."""
