"""The reading end of shared memory: a body mapped, or copied, where a message says it is."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparkd.errors import RemoteMessageError
from sparkd.reference import Reference
from sparkd.shm.room import DATA_AT, HEADER, MAGIC, lock

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""A pipe in the place of a slot must not hold up who opens it."""


class GoneError(RemoteMessageError):
    """What a message refers to is not there any more: its room was needed, or its writer is gone."""


class SharedReader:
    """Reads what services of this node have written beneath one folder."""

    def __init__(self, root: Path) -> None:
        """Read beneath *root*."""
        self._root = root

    def map(self, reference: Reference, *, fetch: bool = False) -> memoryview:
        """Return what is there, uncopied. It stays as it is while the result, or any part of it, is held.

        With *fetch* it is for this reader alone, and is removed when no part of it is held any more. Raises GoneError
        if it is not there any more, RemoteMessageError for a reference that no writer of ours made.
        """
        with self._opened(reference, fetch=fetch) as slot:
            end = reference.offset + reference.length
            mapped = mmap.mmap(slot, end, prot=mmap.PROT_READ)
            # The mapping keeps a descriptor of its own to the same open file, and with it the lock.
            return memoryview(mapped)[reference.offset : end]

    def read(self, reference: Reference, *, fetch: bool = False) -> bytes:
        """Return a copy of what is there; else as `map`. For who must survive a writer that truncates its file."""
        with self._opened(reference, fetch=fetch) as slot:
            found = os.pread(slot, reference.length, reference.offset)
            if len(found) < reference.length:
                raise GoneError(f"{_name(reference)}: {len(found)} of {reference.length} bytes")
            return found

    @contextmanager
    def _opened(self, reference: Reference, *, fetch: bool) -> Iterator[int]:
        """Give the file of *reference*, locked against its writer and found to hold what was meant."""
        with contextlib.ExitStack() as stack:
            try:
                root = _open(stack, str(self._root), _DIRECTORY)
                if os.fstat(root).st_mode & stat.S_IWOTH:
                    raise RemoteMessageError(f"{self._root}: others may write there")
                folder = _open(stack, reference.folder, _DIRECTORY, within=root)
                slot = _open(stack, str(reference.slot), _FILE, within=folder)
            except FileNotFoundError:
                raise GoneError(f"{_name(reference)}: it is gone") from None
            except OSError as error:
                raise RemoteMessageError(f"{_name(reference)}: {error.strerror}") from None
            _check(slot, folder, reference)
            if fetch:
                with contextlib.suppress(OSError):  # another user's: its writer removes it after a while
                    os.unlink(str(reference.slot), dir_fd=folder)
            yield slot


def _open(stack: contextlib.ExitStack, name: str, flags: int, *, within: int | None = None) -> int:
    descriptor = os.open(name, flags, dir_fd=within)
    stack.callback(os.close, descriptor)
    return descriptor


def _check(slot: int, folder: int, reference: Reference) -> None:
    """Take the reader's lock, and see that the slot is what *reference* means."""
    found = os.fstat(slot)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.fstat(folder).st_uid:
        raise RemoteMessageError(f"{_name(reference)}: it is no file of its folder's owner")
    if not lock(slot, fcntl.LOCK_SH):
        raise GoneError(f"{_name(reference)}: it is being written again")
    header = os.pread(slot, HEADER.size, 0)
    if header != HEADER.pack(MAGIC, reference.generation, reference.length):
        raise GoneError(f"{_name(reference)}: it holds something else by now")
    if reference.offset < DATA_AT or reference.offset + reference.length > os.fstat(slot).st_size:
        raise RemoteMessageError(f"{_name(reference)}: it is not as long as the message says")


def _name(reference: Reference) -> str:
    return f"shared memory {reference.folder}/{reference.slot}"
