"""The room that all writers of a node share: its files, its bound, and what is left of writers that are gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparkd.errors import SparkdError

FOLDER = "shm"
"""Beneath the daemon's runtime folder."""
OWNER = "owner"
BUDGET = ".budget"
UNBORN = ".new-"
HEADER = struct.Struct("<8sQQ")
"""Magic, generation, length in bytes: what a slot begins with. Generation 0 is nothing: it is being written."""
MAGIC = b"sparkd-1"
DATA_AT = 64
"""Where data may begin, for a cache line."""
_SHARED_DIR, _SHARED_FILE = 0o2750, 0o640
_OWN_DIR, _OWN_FILE = 0o700, 0o600
"""Set-group: what is made within a shared folder belongs to its group too."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class NoRoomError(SparkdError):
    """Shared memory is full now."""


class NoSharedMemoryError(NoRoomError):
    """There is no shared memory for this process, and there will be none."""


def make_root(runtime: Path, *, gid: int | None = None) -> Path:
    """Make the folder for shared memory beneath *runtime*, readable for the group *gid*; return it. Raises OSError."""
    root = runtime / FOLDER
    root.mkdir(mode=_OWN_DIR, exist_ok=True)
    if gid is not None:
        with contextlib.suppress(PermissionError):  # not root, and not a member: the user's own folder then
            os.chown(root, -1, gid)
            root.chmod(_SHARED_DIR)
    return root


def modes(root: int) -> tuple[int, int]:
    """Return the modes of a folder and a file in the folder *root*: the group may read what it may see."""
    shared = os.fstat(root).st_mode & 0o050 == 0o050  # noqa: PLR2004 - read and enter
    return (_SHARED_DIR, _SHARED_FILE) if shared else (_OWN_DIR, _OWN_FILE)


def lock(descriptor: int, kind: int) -> bool:
    """Take the lock *kind* (LOCK_SH or LOCK_EX) on a file, without waiting; return whether that was possible."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Let go of the lock on a file."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def opened(name: str | Path, flags: int, *, within: int | None = None) -> Iterator[int]:
    """Open a file that is no link, for the context. Raises OSError."""
    descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _OWN_FILE, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def budget(root: int) -> Iterator[int | None]:
    """Give the bytes all slots have, while nobody else may add one; None if somebody else is just adding one.

    It does not wait: a process that was stopped while it counted must not stop all others.
    """
    with opened(BUDGET, os.O_RDWR | os.O_CREAT, within=root) as held:
        yield used_bytes(root) if lock(held, fcntl.LOCK_EX) else None


def used_bytes(root: int) -> int:
    """Return the bytes that all slots of all writers have."""
    total = 0
    for name in _folders(root):
        with contextlib.suppress(FileNotFoundError), opened(name, _DIRECTORY, within=root) as folder:
            total += sum(_size(folder, slot) for slot in names(folder) if slot.isdigit())
    return total


def names(folder: int) -> list[str]:
    """Return what there is in *folder*."""
    return os.listdir(folder)


def sweep(root: Path, *, alone: bool = False) -> int:
    """Remove what writers that are gone have left; return how many slots had to stay because a reader still has them.

    With *alone* there can be no writer yet, and what was being made when the last daemon died goes too.
    """
    left = 0
    with contextlib.suppress(FileNotFoundError), opened(root, _DIRECTORY) as held:
        for name in names(held) if alone else _folders(held):
            if name != BUDGET:
                with contextlib.suppress(FileNotFoundError):
                    left += _sweep_folder(held, name)
    return left


def _sweep_folder(root: int, name: str) -> int:
    with opened(name, _DIRECTORY, within=root) as folder:
        try:
            with opened(OWNER, os.O_RDWR, within=folder) as owner:
                if not lock(owner, fcntl.LOCK_EX):
                    return 0  # it lives
                left = sum(not _remove(folder, slot) for slot in names(folder) if slot != OWNER)
                if not left:
                    os.unlink(OWNER, dir_fd=folder)
        except FileNotFoundError:  # it died before it had one, or somebody else sweeps too
            left = sum(not _remove(folder, slot) for slot in names(folder))
    if not left:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=root)
    return left


def _remove(folder: int, slot: str) -> bool:
    """Remove a slot that no reader has; return whether it is gone."""
    with opened(slot, os.O_RDWR, within=folder) as held:
        if not lock(held, fcntl.LOCK_EX):
            return False
        os.unlink(slot, dir_fd=folder)
        return True


def _folders(root: int) -> list[str]:
    return [name for name in names(root) if not name.startswith(".")]


def _size(folder: int, slot: str) -> int:
    try:
        return os.stat(slot, dir_fd=folder, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
