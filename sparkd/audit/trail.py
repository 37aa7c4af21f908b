"""The trail as the daemon uses it: what is recorded is on disk before `record` returns, and the event loop never waits.

What is recorded while a write is under way goes into the next one, so a burst costs one sync. If the disk refuses, the
daemon goes on: an edge node that stops because its audit is full does more harm than a gap in the audit. The gap is
said in `on_problem`, what could not be written is kept, up to a bound, and tried again, and what is lost is counted in
a line of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from sparkd.audit.deed import Deed, Entry
from sparkd.audit.files import STOPPED, TrailFiles

PATIENCE_S = 5.0
"""How long a call waits for its line to be on disk; a disk that takes longer is broken, and the call goes on."""
AGAIN_S = 10.0
"""From a refusal of the disk to the next attempt, if nothing else is recorded meanwhile."""
MAX_WAITING = 1000
"""Lines kept while they cannot be written."""
MAX_BEHIND = 1000
"""Lines that a follower may be behind before it is cut off."""


class Trail:
    """The audit trail in a folder."""

    def __init__(self, folder: Path, *, max_bytes: int, on_problem: Callable[[str], None] = lambda _: None) -> None:
        """Keep *max_bytes* in *folder*, 0 for no trail; *on_problem* is told what is wrong, or nothing."""
        self.folder = folder
        self.on_problem = on_problem
        self.enabled = max_bytes > 0
        self.lost = 0
        """Lines that were never written."""
        self._files = TrailFiles(folder, max_bytes=max_bytes)
        self._waiting: list[Deed] = []
        self._written = anyio.Event()
        self._news = anyio.Event()
        self._untold = 0
        self._begun = False
        self._followers: set[MemoryObjectSendStream[Entry]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Trail]:
        """Write what is recorded while the context is open; say that it began and ended."""
        if not self.enabled:
            yield self
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write_on)
                try:
                    yield self
                finally:
                    tasks.cancel_scope.cancel()
        finally:
            self._waiting.append(Deed(door="daemon", method=STOPPED, outcome="ok"))
            with anyio.move_on_after(PATIENCE_S, shield=True):
                await self._write()
                self._files.close()

    async def record(self, deed: Deed) -> None:
        """Return when *deed* is on disk, or cannot be: see the module's docstring. Cancelled, it is recorded too."""
        if not self.note(deed):
            return
        written = self._written
        with anyio.move_on_after(PATIENCE_S):
            await written.wait()
            return
        self.on_problem(f"the audit trail in {self.folder} takes more than {PATIENCE_S:g} s for a line; see the disk")

    def note(self, deed: Deed) -> bool:
        """Have *deed* written soon; return whether it will be, as far as is known."""
        if not self.enabled:
            return False
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            self._untold += 1
            return False
        self._waiting.append(deed)
        self._news.set()
        return True

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[MemoryObjectReceiveStream[Entry]]:
        """Give the lines as they are written; one who does not read is cut off."""
        send, receive = anyio.create_memory_object_stream[Entry](MAX_BEHIND)
        self._followers.add(send)
        try:
            with receive:
                yield receive
        finally:
            self._followers.discard(send)
            send.close()

    async def _write_on(self) -> None:
        self._news.set()  # the first line says that the trail has begun
        while True:
            if self._waiting and not self._news.is_set():
                with anyio.move_on_after(AGAIN_S):
                    await self._news.wait()
            else:
                await self._news.wait()
            self._news = anyio.Event()
            await self._write()

    async def _write(self) -> None:
        deeds, written = self._waiting, self._written
        self._waiting, self._written = [], anyio.Event()
        untold, self._untold = self._untold, 0
        if untold:
            lost = Deed(door="daemon", method="audit.lost", outcome="failed", params={"lines": untold})
            deeds.append(lost)
        try:
            entries = await to_thread.run_sync(self._append, deeds)
        except OSError as error:
            self._keep(deeds, untold)
            state = f"{len(self._waiting)} lines wait and {self.lost} are lost"
            self.on_problem(
                f"the audit trail cannot be written to {self.folder}: {error.strerror}; calls go on, {state}; "
                "make room, or mend the disk"
            )
        else:
            self.on_problem("")
            for entry in entries:
                self._tell(entry)
        finally:
            written.set()

    def _append(self, deeds: list[Deed]) -> list[Entry]:
        if not self._begun:
            deeds.insert(0, self._files.open())
            self._begun = True
        return self._files.append(deeds)

    def _keep(self, deeds: list[Deed], untold: int) -> None:
        """Keep what could not be written for the next attempt, as far as there is room."""
        if untold:
            deeds.pop()
            self._untold += untold
        room = MAX_WAITING - len(self._waiting)
        lost = max(len(deeds) - room, 0)
        self.lost += lost
        self._untold += lost
        self._waiting = deeds[: len(deeds) - lost] + self._waiting

    def _tell(self, entry: Entry) -> None:
        for follower in list(self._followers):
            try:
                follower.send_nowait(entry)
            except (anyio.WouldBlock, anyio.BrokenResourceError):
                self._followers.discard(follower)
                with suppress(anyio.ClosedResourceError):
                    follower.close()
