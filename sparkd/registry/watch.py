"""Hear of changes in the drop-in folders.

Theory of operation. inotify is a hint that something may have changed: after 50 ms without another hint the folders are
scanned, and the difference to the scan before is the change set. IN_CREATE counts for folders only, and a file that has
been created or modified is left out of scans until its writer has closed it, or half-written files would be loaded.
Each folder is watched together with its parent, so that one which is made, removed or replaced later is noticed too.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import anyio
import anyio.to_thread
from asyncinotify import Event, Inotify, Mask, Watch

from sparkd.registry.discover import candidates, files_of, walk

QUIET_S = 0.05
PATIENCE_S = 1.0
"""Under a rain of events the folders are scanned after this long all the same."""

_FOLDER_EVENTS = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ONLYDIR
_PLUGIN_EVENTS = _FOLDER_EVENTS | Mask.CLOSE_WRITE | Mask.MODIFY | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF

Stamp: TypeAlias = tuple[tuple[object, ...], ...]
"""What tells one state of a plugin from another without reading it."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The plugins (files and folders) that came, changed and went."""

    added: frozenset[Path] = frozenset()
    changed: frozenset[Path] = frozenset()
    removed: frozenset[Path] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def difference(before: Mapping[Path, Stamp], after: Mapping[Path, Stamp]) -> Changes:
    """Return what happened between two scans."""
    return Changes(
        added=frozenset(after.keys() - before.keys()),
        changed=frozenset(path for path in after.keys() & before.keys() if after[path] != before[path]),
        removed=frozenset(before.keys() - after.keys()),
    )


class DropInWatch:
    """Iterate over the change sets of drop-in folders: those since it was opened by `async with`.

    List the plugins after opening it, and nothing is missed between.
    """

    def __init__(self, folders: Sequence[Path], *, quiet_s: float = QUIET_S) -> None:
        self.problem = ""
        """Why changes are seen only on `rescan`: the kernel gives no watch, say."""
        self._folders = tuple(folder.absolute() for folder in folders)
        self._quiet_s = quiet_s
        self._watches: dict[Path, tuple[tuple[int, int], Watch]] = {}
        self._being_written: set[Path] = set()
        self._stamps: dict[Path, Stamp] = {}

    async def __aenter__(self) -> Self:
        self._inotify = Inotify()
        os.set_blocking(self._inotify.fd, False)
        self._request = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._either = select.epoll()
        self._either.register(self._inotify.fd, select.EPOLLIN)
        self._either.register(self._request, select.EPOLLIN)
        await anyio.to_thread.run_sync(self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._either.close()
        os.close(self._request)
        self._inotify.close()

    def rescan(self) -> None:
        """Scan now, whatever inotify says; a change that it finds comes out of the iteration."""
        os.eventfd_write(self._request, 1)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        while True:
            await self._hint()
            with anyio.move_on_after(PATIENCE_S):
                while await self._another_hint():
                    pass
            changes = await anyio.to_thread.run_sync(self._look)
            if changes:
                return changes

    async def _another_hint(self) -> bool:
        with anyio.move_on_after(self._quiet_s):
            await self._hint()
            return True
        return False

    async def _hint(self) -> None:
        """Return once something may have changed, or was asked for."""
        while True:
            await anyio.wait_readable(self._either.fileno())
            asked = self._was_asked()
            if asked:
                self._being_written = set(filter(_is_being_written, self._being_written))
            # All events are read: each may end the wait for a file that is being written.
            hints = [self._is_hint(event) for event in self._events()]
            if asked or any(hints):
                return

    def _was_asked(self) -> bool:
        try:
            return os.eventfd_read(self._request) > 0
        except BlockingIOError:
            return False

    def _events(self) -> Iterable[Event]:
        with suppress(BlockingIOError):
            while event := self._inotify.sync_get():
                yield event

    def _is_hint(self, event: Event) -> bool:
        if event.mask & Mask.Q_OVERFLOW:
            self._being_written.clear()
            return True
        if event.watch is None or event.mask & Mask.IGNORED:
            return False
        path = event.watch.path / event.name if event.name else event.watch.path
        writing = event.mask & (Mask.CREATE | Mask.MODIFY) and not event.mask & Mask.ISDIR
        if writing and event.watch.mask & Mask.CLOSE_WRITE and _is_being_written(path):
            self._being_written.add(path)
            return False
        if not event.mask & Mask.ATTRIB:  # a chmod says nothing about the writer
            self._being_written.discard(path)
        return True

    def _look(self) -> Changes:
        """Watch what there is to watch, scan, and return what has changed since the last time. Blocks."""
        self.problem = ""
        while self._watch_new_folders():
            pass
        before, self._stamps = self._stamps, self._scan()
        return difference(before, self._stamps)

    def _scan(self) -> dict[Path, Stamp]:
        found = {}
        for path in (path for folder in self._folders for path in candidates(folder)):
            if not any(file.is_relative_to(path) for file in self._being_written):
                found[path] = _stamp(path)
            elif path in self._stamps:
                found[path] = self._stamps[path]  # as it was, until it is written
        return found

    def _watch_new_folders(self) -> bool:
        """Bring the watches up to what exists; return whether there was anything new, and so another look is due."""
        wanted = self._wanted()
        for path, (identity, watch) in list(self._watches.items()):
            if path not in wanted or wanted[path][0] != identity:
                del self._watches[path]
                with suppress(OSError):  # the kernel has dropped it already
                    self._inotify.rm_watch(watch)
        new = [path for path in wanted if path not in self._watches]
        for path in new:
            identity, mask = wanted[path]
            try:
                self._watches[path] = (identity, self._inotify.add_watch(path, mask))
            except FileNotFoundError:
                continue
            except OSError as error:
                self.problem = f"cannot watch {path}: {error}"
        return any(path in self._watches for path in new)

    def _wanted(self) -> dict[Path, tuple[tuple[int, int], Mask]]:
        wanted: dict[Path, tuple[tuple[int, int], Mask]] = {}

        def want(path: Path, mask: Mask) -> None:
            with suppress(OSError):
                facts = path.stat()
                wanted.setdefault(path, ((facts.st_dev, facts.st_ino), mask))

        for folder in self._folders:
            if folder.is_dir():
                want(folder, _PLUGIN_EVENTS)
                for path in _folders_in(folder):
                    want(path, _PLUGIN_EVENTS)
        for folder in self._folders:
            want(next(parent for parent in folder.parents if parent.is_dir()), _FOLDER_EVENTS)
        return wanted


def _folders_in(folder: Path) -> Iterable[Path]:
    """Yield the folders that a plugin's files are in, or will be: those without code yet too."""
    with suppress(OSError):
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.name.startswith((".", "_")):
                yield from (inner for inner, _ in walk(entry))


def _is_being_written(path: Path) -> bool:
    """Whether somebody has the file open for writing, and so IN_CLOSE_WRITE is still to come."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:  # gone, or a link
        return False
    try:
        # The kernel grants a read lease only while there is no writer.
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # a file of another user, or a file system without leases: only a hard link has no writer
        facts = os.fstat(descriptor)
        return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
    else:
        return False
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> Stamp:
    stamp: list[tuple[object, ...]] = []
    for file in (path.parent, *files_of(path)):
        try:
            facts = file.stat()
        except OSError:
            continue
        # With mode and owner, because a refused plugin may be mended by chmod alone.
        content = () if file == path.parent else (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        stamp.append((str(file), facts.st_mode, facts.st_uid, *content))
    return tuple(stamp)
