"""Waiting for changes of files. The kernel says when; a slow look is there for file systems that say nothing."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from asyncinotify import Inotify, Mask

FALLBACK_S = 5.0
BLIND_S = 0.5
"""How often to look where the kernel has no more watches to give."""


class Watch:
    """Watches files or folders; `changed` returns after something happened to one of them since the last call."""

    def __init__(self) -> None:
        try:
            self._inotify: Inotify | None = Inotify()
        except OSError:  # fs.inotify.max_user_instances is reached
            self._inotify = None
        self._watched: set[Path] = set()
        self._blind = self._inotify is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def file(self, path: Path) -> None:
        """Watch what is written to *path*, if it is there."""
        self._add(path, Mask.MODIFY)

    def folder(self, path: Path) -> None:
        """Watch what appears in and disappears from *path*, if it is there."""
        self._add(path, Mask.CREATE | Mask.DELETE | Mask.MOVED_TO | Mask.MOVED_FROM)

    def _add(self, path: Path, mask: Mask) -> None:
        if self._inotify is not None and path not in self._watched:
            try:
                self._inotify.add_watch(path, mask | Mask.DELETE_SELF)
            except OSError:  # not there, or fs.inotify.max_user_watches is reached
                self._blind = path.exists()
            else:
                self._watched.add(path)

    async def changed(self) -> None:
        """Return when something has changed, or after a while; the kernel makes one of equal events in a row."""
        if self._inotify is None:
            await anyio.sleep(BLIND_S)
            return
        with anyio.move_on_after(BLIND_S if self._blind else FALLBACK_S):
            event = await self._inotify.get()
            if event.mask & (Mask.DELETE_SELF | Mask.IGNORED) and event.watch is not None:
                self._watched.discard(Path(str(event.watch.path)))
