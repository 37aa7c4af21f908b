"""Telling of blocks: in the log, seldom enough; and to whoever counts them, at most once a second."""

from __future__ import annotations

import asyncio  # noqa: TID251 - a block is found in another thread, and told on the loop
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from sparkd.blocked.watch import Block, watch_loop
from sparkd.log import OncePer, StructuredLog

TELL_S = 1.0
REMEDY = "move it to a thread (anyio.to_thread.run_sync), or yield in between (await anyio.lowlevel.checkpoint())"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Blocks of one loop: how many, how long in all, the longest, and the last."""

    count: int = 0
    seconds: float = 0.0
    longest_s: float = 0.0
    last_s: float = 0.0
    file: str = ""
    line: int = 0

    def and_then(self, later: Blocks) -> Blocks:
        """Return both together."""
        return replace(
            later,
            count=self.count + later.count,
            seconds=self.seconds + later.seconds,
            longest_s=max(self.longest_s, later.longest_s),
        )


class _Telling:
    def __init__(self, log: StructuredLog, tell: Callable[[Blocks], Awaitable[None]]) -> None:
        self._log, self._tell = log, tell
        self._loop = asyncio.get_running_loop()
        self._complaints = OncePer()
        self._held = Blocks()
        self._news = anyio.Event()

    def on_block(self, block: Block) -> None:
        """Take a block; called in the watching thread, so what the loop does next cannot keep it from the log."""
        place = f"{block.file}:{block.line}"
        if not block.over:
            self._log.error("loop is blocked", seconds=f"{block.seconds:.1f}", at=place, remedy=REMEDY)
            return
        if (held := self._complaints.passes(place)) is not None:
            times = {"times": held + 1} if held else {}
            self._log.warning("loop blocked", seconds=f"{block.seconds:.3f}", at=place, **times, remedy=REMEDY)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take, block)

    def _take(self, block: Block) -> None:
        s = block.seconds
        one = Blocks(count=1, seconds=s, longest_s=s, last_s=s, file=block.file, line=block.line)
        self._held = self._held.and_then(one)
        self._news.set()

    async def go_on(self) -> None:
        while True:
            await self._news.wait()
            held, self._held, self._news = self._held, Blocks(), anyio.Event()
            await self._tell(held)
            await anyio.sleep(TELL_S)


async def tell_of_blocks(name: str, homes: Callable[[], list[Path]], tell: Callable[[Blocks], Awaitable[None]]) -> None:
    """Watch the running loop until cancelled: log its blocks as *name*, and *tell* those that are new.

    Code beneath *homes* is blamed before what it calls. Raises OSError if the kernel gives no timer, and what *tell*
    raises. A loop that does not say when it sleeps is not watched.
    """
    log = StructuredLog(name)
    telling = _Telling(log, tell)
    async with watch_loop(telling.on_block, lambda: [str(home) for home in homes()]) as works:
        if not works:
            log.debug("loop not watched", why="it is not a uvloop that says when it sleeps")
        await telling.go_on()
