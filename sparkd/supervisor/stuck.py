"""Where a process is stuck: the dump it writes when asked, what the kernel says of it, and the line to look at."""

from __future__ import annotations

import re
import signal
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio

from sparkd.zygote import Exit

LINES_KEPT = 1000
"""Of what a child wrote, to find in it where it crashed: a dump names up to a hundred threads."""
DUMP_LIMIT_S = 0.5
DUMP_PAUSE_S = 0.05
"""A dump comes through the pipe without a sign that it is complete; it is written at once, so a pause is its end."""
STACK_LINES = 300
_HEAD = re.compile(r"(Current t|T)hread 0x[0-9a-f]+ .*\(most recent call first\):")
_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in ')


class Process(Protocol):
    """A process that runs a service, whoever started it."""

    @property
    def pid(self) -> int:
        """Its number; 0 if it never began."""
        ...

    async def wait(self) -> Exit:
        """Return how it ended, after everything it wrote has been handed on."""
        ...

    async def result(self) -> bytes:
        """Return what it said of its end. Raises ValueError if that was too much."""
        ...

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; nothing if it has ended."""
        ...

    def dump(self) -> None:
        """Make it write where each of its threads is."""
        ...


class Output:
    """The last lines that a child wrote, and the news of more."""

    def __init__(self, *, dump_limit_s: float = DUMP_LIMIT_S) -> None:
        """Wait *dump_limit_s* for a dump to begin."""
        self._dump_limit_s = dump_limit_s
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._count = 0
        self._news = anyio.Event()

    def add(self, line: str) -> None:
        """Take a line."""
        self.lines.append(line)
        self._count += 1
        self._news.set()
        self._news = anyio.Event()

    async def dump_of(self, child: Process, *, resume: bool = False) -> list[str]:
        """Have *child* write where its threads are; return that, nothing if it does not.

        With *resume* one that is stopped is woken for it: the dump waits for it first, so nothing runs before.
        """
        before = self._count
        child.dump()
        if resume:
            child.kill(signal.SIGCONT)
        with anyio.move_on_after(self._dump_limit_s):
            await self._news.wait()
            while True:
                with anyio.move_on_after(DUMP_PAUSE_S) as pause:
                    await self._news.wait()
                if pause.cancelled_caught:
                    break
        fresh = list(self.lines)[-(self._count - before) :] if self._count > before else []
        return [line for line in fresh if _HEAD.match(line) or line.startswith("  ")][:STACK_LINES]


@dataclass(frozen=True, slots=True)
class Stuck:
    """Where a process is: the line to look at, and the stacks of its threads, innermost first."""

    file: str = ""
    line: int = 0
    stack: tuple[str, ...] = ()
    note: str = ""
    """What the kernel says that explains it; empty if nothing."""


def stuck_in(dump: list[str], home: Path, *, note: str = "") -> Stuck:
    """Return where *dump* says a process is: the innermost line of the plugin at *home*, the main thread's first.

    A main thread that is in none of the plugin's code waits, for an event or for the lock of the interpreter: then a
    thread that is may be what holds that lock. The oldest thread is the main one, and a dump begins with the youngest.
    """
    threads: list[list[tuple[str, int]]] = []
    for line in dump:
        if _HEAD.match(line):
            threads.append([])
        elif threads and (frame := _FRAME.match(line)):
            threads[-1].append((frame["file"], int(frame["line"])))
    main_first = threads[::-1]
    own = (frame for thread in main_first for frame in thread if Path(frame[0]).is_relative_to(home))
    innermost = next((thread[0] for thread in main_first if thread), ("", 0))
    file, number = next(own, innermost)
    return Stuck(file, number, tuple(dump), note)


def process_state(pid: int) -> str:
    """Return the kernel's letter for the state of *pid*: R runs, S sleeps, T is stopped, t is traced; empty if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def starved_s(pid: int) -> float:
    """Return how long the main thread of *pid* has waited for a processor so far; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def note_on(state: str) -> str:
    """Return what a state says that explains why a process does not answer; empty if nothing."""
    return {
        "T": "its process is stopped by a signal (SIGSTOP)",
        "D": "its process waits in the kernel, for a disk, a device or memory",
    }.get(state, "")
