"""Where pictures come from: a folder. Files are taken in order of arrival, and only when they are whole.

The kernel says when a file was closed after writing or moved into the folder (inotify); files that were there before
come first, oldest first. A file that someone still has open for writing is left alone, for its closing will be told.
The names wait in the kernel's queue, not in memory; if that overflows, the folder is read again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

from sparkd import DeviceError

from .processed import Processed

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
DONE, BAD = "done", "bad"
"""Folders beneath the watched one, for `after = "move"`."""

NOT_A_FILE = {errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO}
"""Gone, a link (those may lead anywhere), a folder, a socket."""

COPIED_NS = 60_000_000_000
"""A file written a minute or more before it came here was copied with its old time."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A whole file: read, or known from before, or refused unread."""

    name: str
    key: str
    stamp: str
    content: bytes = b""
    seen_ns: int = 0
    known: bool = False
    """Whether it has been dealt with before; then `content` is empty."""
    problem: str = ""
    """Why it is refused, if it is."""


def wanted(name: str) -> bool:
    """Whether a file of this name is taken: a picture by its suffix, and not hidden as unfinished files often are."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def first_seen_ns(*, mtime_ns: int, ctime_ns: int, now_ns: int) -> int:
    """Return when a picture came to be: its file's time of writing if that can be believed, else now.

    It cannot if it lies in the future, or well before the file came to this folder.
    """
    believable = 0 < mtime_ns <= now_ns and ctime_ns - mtime_ns < COPIED_NS
    return mtime_ns if believable else now_ns


def key_of(name: str, content: bytes) -> str:
    """Return the idempotency key of a picture: its content and its name, hashed."""
    return hashlib.sha256(hashlib.sha256(content).digest() + os.fsencode(name)).hexdigest()


def stamp_of(status: os.stat_result) -> str:
    """Return what changes when a file is written again or replaced."""
    return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"


@asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[AsyncIterator[str]]:
    """Watch *folder* from now on; iterate for the names of the pictures in it, then of those that arrive.

    A name may come twice. Raises DeviceError if the folder is missing, and while iterating if it goes away.
    """
    from asyncinotify import Inotify, Mask  # noqa: PLC0415 - probing a plugin must not cost it

    with Inotify(cache_size=100) as inotify:
        mask = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR
        try:
            inotify.add_watch(folder, mask)
        except OSError as error:
            raise _unwatchable(folder, os.strerror(error.errno or 0)) from error
        async with aclosing(_names(folder, inotify, Mask)) as names:
            yield names


async def _names(folder: Path, inotify: Any, mask: Any) -> AsyncGenerator[str, None]:
    gone = mask.DELETE_SELF | mask.MOVE_SELF | mask.UNMOUNT | mask.IGNORED
    rescan = True
    while True:
        if rescan:  # the watch is set already, so nothing falls between
            for name in await anyio.to_thread.run_sync(waiting, folder):
                yield name
        event = await inotify.get()
        if event.mask & gone:
            raise _unwatchable(folder, "it was removed, moved or unmounted")
        rescan = bool(event.mask & mask.Q_OVERFLOW)
        if event.name is not None and not event.mask & mask.ISDIR and wanted(str(event.name)):
            yield str(event.name)


def _unwatchable(folder: Path, reason: str) -> DeviceError:
    return DeviceError(
        f"the folder {folder} cannot be watched: {reason}",
        remedy=f"make {folder} a folder that the daemon's user may read, or set another `watch`",
    )


def waiting(folder: Path) -> list[str]:
    """Return the names of the pictures that are in *folder* now, oldest first. Raises DeviceError if it is gone."""
    found = []
    try:
        listing = os.scandir(folder)
    except OSError as error:
        raise _unwatchable(folder, os.strerror(error.errno or 0)) from error
    with listing as entries:
        for entry in entries:
            try:
                if wanted(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
            except FileNotFoundError:  # gone between the two looks
                continue
    return [name for _, name in sorted(found)]


def examine(folder: Path, name: str, *, processed: Processed, max_bytes: int, now_ns: int) -> Arrival | None:
    """Return the picture called *name*, read unless it is known; None if it is gone, unfinished or no plain file.

    Raises OSError if it cannot be read.
    """
    try:
        opened = open(folder / name, "rb", opener=_open_plainly)  # noqa: SIM115 - closed by the `with` below; Path.open takes no opener
    except OSError as error:
        if error.errno in NOT_A_FILE:
            return None
        raise
    with opened as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or being_written(file.fileno()):
            return None
        stamp = stamp_of(status)
        entry = processed.find_unchanged(name, stamp)
        if entry is not None:
            return Arrival(name, entry.key, stamp, known=True, problem=entry.problem)
        if status.st_size > max_bytes:
            problem = f"the file has {status.st_size} bytes, more than max_bytes = {max_bytes}"
            return Arrival(name, key_of(name, stamp.encode()), stamp, problem=problem)
        content = file.read()
    key = key_of(name, content)
    entry = processed.find(key)
    if entry is not None:
        return Arrival(name, key, stamp, known=True, problem=entry.problem)
    seen = first_seen_ns(mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns, now_ns=now_ns)
    return Arrival(name, key, stamp, content, seen)


def _open_plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not make us wait


def being_written(descriptor: int) -> bool:
    """Whether someone has the file open for writing. False where that cannot be told.

    The kernel refuses a read lease on a file that is open for writing (fcntl(2)). The lease is given back at once; a
    writer that comes in between waits for that, and the signal it would cause is one that does nothing.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def settle(folder: Path, arrival: Arrival, *, after: str) -> None:
    """Delete or move away a picture that has been dealt with, unless it has been replaced since.

    Raises OSError if the folder does not allow it.
    """
    path = folder / arrival.name
    if after == "keep" or (after == "delete" and arrival.problem):
        return
    try:
        if stamp_of(path.lstat()) != arrival.stamp:
            return
        if after == "delete":
            path.unlink()
            return
        shelf = folder / (BAD if arrival.problem else DONE)
        shelf.mkdir(exist_ok=True)
        target = shelf / arrival.name
        if target.exists():
            target = target.with_stem(f"{target.stem}.{arrival.key[:12]}")
        path.rename(target)
    except FileNotFoundError:
        return
