"""A child of the zygote as the core sees it: its output, its result, its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from sparkd.zygote import birth, wire
from sparkd.zygote.lines import Lines

CHUNK_BYTES = 1 << 16  # what a pipe holds
FLOOD_CHUNKS = 256
FLOOD_PAUSE_S = 0.02
"""After so many full chunks without a pause of its own, a child gets at most 3 MB/s of the core's attention."""
LEFTOVER_BYTES = 1 << 20
"""How much is read after the end: a process that got away with the pipe may go on writing for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a child ended: by an exit code or by a signal, and what it used."""

    code: int | None = None
    signal: int | None = None
    max_rss_bytes: int = 0
    cpu_s: float = 0.0

    @classmethod
    def of(cls, ended: wire.Ended) -> Exit:
        """Return what the zygote reported."""
        by_signal = ended.code < 0
        return cls(
            code=None if by_signal else ended.code,
            signal=-ended.code if by_signal else None,
            max_rss_bytes=ended.max_rss_bytes,
            cpu_s=ended.cpu_s,
        )

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:  # a real-time signal
            return f"killed by signal {self.signal}"


class SendSignal(Protocol):
    """How a child's signals reach the zygote."""

    def __call__(self, pid: int, number: int, *, group: bool) -> None:
        """Send signal *number* to *pid*, or to its whole group."""
        ...


class Child:
    """A living or ended process. What it writes is read all the time, so that it never waits for a reader."""

    def __init__(self, pid: int, pipes: Pipes, send_signal: SendSignal) -> None:
        self.pid = pid
        self._pipes = pipes
        self._send_signal = send_signal
        self._reported = anyio.Event()
        self._gone = anyio.Event()
        self._exit = Exit(signal=signal.SIGKILL)  # unless the zygote says otherwise: its own end kills us

    async def wait(self) -> Exit:
        """Return how it ended, after it has, and after everything it wrote has been handed on."""
        await self._gone.wait()
        return self._exit

    async def result(self) -> bytes:
        """Return what it wrote to its result pipe, after it has ended. Raises ValueError if that was too much."""
        await self._gone.wait()
        return self._pipes.result()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it and to all processes of its group; nothing if it has ended."""
        self._signal(number, group=True)

    def dump(self) -> None:
        """Make it write to stderr where each of its threads is, even if it is stuck."""
        self._signal(birth.DUMP_SIGNAL, group=False)

    def _signal(self, number: int, *, group: bool) -> None:
        if not self._reported.is_set():
            self._send_signal(self.pid, number, group=group)

    def ended(self, how: Exit) -> None:
        """Take note of its end. For the zygote's receiver only."""
        self._exit = how
        self._reported.set()

    async def follow(self) -> None:
        """Read its pipes until it has ended and they are empty. For the zygote's task group only."""
        try:
            async with anyio.create_task_group() as readers:
                self._pipes.start_reading(readers)
                await self._reported.wait()
                # A grandchild may hold the pipes open for ever: the end of the child counts, not the end of file.
                readers.cancel_scope.cancel()
            self._pipes.read_leftovers()
        finally:
            self._pipes.close()
            self._gone.set()


class Pipes:
    """The two pipes of a child, both ends until the child has them."""

    def __init__(self, *, on_line: Callable[[str], None] | None, max_result_bytes: int) -> None:
        self._on_line = on_line
        self._lines = Lines()
        self._max_result_bytes = max_result_bytes
        self._result = bytearray()
        self._output_in, self.output_fd = os.pipe()
        try:
            self._result_in, self.result_fd = os.pipe()
        except OSError:
            os.close(self._output_in)
            os.close(self.output_fd)
            raise
        for descriptor in (self._output_in, self._result_in):
            os.set_blocking(descriptor, False)

    def close_child_ends(self) -> None:
        """Close the ends that the child writes to: it has its own by now."""
        os.close(self.output_fd)
        os.close(self.result_fd)

    def start_reading(self, readers: TaskGroup) -> None:
        """Start a task for each pipe."""
        readers.start_soon(_read_all, self._output_in, self._take_output)
        readers.start_soon(_read_all, self._result_in, self._take_result)

    def read_leftovers(self) -> None:
        """Take what is in the pipes now, without waiting; the last line may lack its end."""
        for descriptor, take in ((self._output_in, self._take_output), (self._result_in, self._take_result)):
            left = LEFTOVER_BYTES
            while left > 0 and (chunk := _read(descriptor)):
                take(chunk)
                left -= len(chunk)
        for line in self._lines.flush():
            self._hand_on(line)

    def result(self) -> bytes:
        """Return what came through the result pipe. Raises ValueError if it was more than the limit."""
        if len(self._result) > self._max_result_bytes:
            raise ValueError(f"the result is larger than {self._max_result_bytes} bytes")
        return bytes(self._result)

    def close(self) -> None:
        """Close the reading ends."""
        os.close(self._output_in)
        os.close(self._result_in)

    def _take_output(self, chunk: bytes) -> None:
        if self._on_line is not None:
            for line in self._lines.feed(chunk):
                self._hand_on(line)

    def _hand_on(self, line: str) -> None:
        if self._on_line is not None:
            self._on_line(line)

    def _take_result(self, chunk: bytes) -> None:
        room = self._max_result_bytes + 1 - len(self._result)  # one byte over, to know that it was too much
        self._result += chunk[:room]


async def _read_all(descriptor: int, take: Callable[[bytes], None]) -> None:
    full = 0
    while True:
        await anyio.wait_readable(descriptor)
        chunk = _read(descriptor)
        if chunk == b"":
            return
        if chunk is not None:
            take(chunk)
            full = full + 1 if len(chunk) == CHUNK_BYTES else 0
            if full > FLOOD_CHUNKS:
                await anyio.sleep(FLOOD_PAUSE_S)


def _read(descriptor: int) -> bytes | None:
    """Return what is there, nothing at the end of file, None if nothing is there yet."""
    try:
        return os.read(descriptor, CHUNK_BYTES)
    except BlockingIOError:
        return None
