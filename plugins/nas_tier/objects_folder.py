"""Blobs as files in a folder of a local disk: a file appears under its name when it is whole and on the disk."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from sparkd import CHUNK_BYTES, CallError, CallErrorKind

from .objects_checked import ObjectSeen, aside_key, missing, object_key
from .record_store import DIGEST

T = TypeVar("T")
AT_ONCE = 4
"""Threads that wait for the disk."""
PARTIAL = "partial"


class FolderObjects:
    """A folder of blobs. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        """Keep blobs beneath *root*, which is made when the first comes."""
        self._root = root
        self._limiter = CapacityLimiter(AT_ONCE)

    async def size(self, digest: str) -> int | None:
        """Return how large a blob's file is."""
        return await self._run(partial(_size, self._root / object_key(digest)))

    async def free(self) -> int | None:
        """Return what the disk has free for us."""
        return await self._run(partial(_free, self._root))

    async def stream(self, digest: str, *, offset: int, length: int | None) -> AsyncIterator[bytes]:
        """Read a blob's file."""
        file = await self._run(partial(_open, self._root / object_key(digest), offset))
        if file is None:
            raise missing(digest)
        left = length
        try:
            while left is None or left > 0:
                chunk = await self._run(partial(file.read, CHUNK_BYTES if left is None else min(left, CHUNK_BYTES)))
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk
        finally:
            file.close()

    async def store(self, digest: str, *, size: int, chunks: AsyncIterator[bytes]) -> None:  # noqa: ARG002 - is checked
        """Write a file beside, sync it, and give it its name."""
        part = self._root / PARTIAL / f"{digest}.{secrets.token_hex(8)}"
        file = await self._run(partial(_create, part))
        try:
            async for chunk in chunks:
                await self._run(partial(file.write, chunk))
            await self._run(partial(_publish, file, part, self._root / object_key(digest)))
        finally:
            with anyio.CancelScope(shield=True), suppress(CallError):
                await self._run(partial(_discard, file, part))

    async def delete(self, digest: str) -> None:
        """Delete a blob's file."""
        await self._run(partial((self._root / object_key(digest)).unlink, missing_ok=True))

    async def set_aside(self, digest: str) -> None:
        """Move a blob's file to where people may look at it."""
        await self._run(partial(_move, self._root / object_key(digest), self._root / aside_key(digest)))

    async def listed(self, after: str) -> AsyncIterator[ObjectSeen]:
        """List blobs, one folder at a time."""
        for number in range(256):
            name = f"{number:02x}"
            if name >= after[:2]:
                for seen in await self._run(partial(_list, self._root / "blobs" / name)):
                    if seen.digest > after:
                        yield seen

    async def tidy(self, *, before_ms: int) -> None:
        """Remove files that a killed writer left."""
        await self._run(partial(_tidy, self._root / PARTIAL, before_ms))

    async def _run(self, work: Callable[[], T]) -> T:
        with _said(self._root):
            return await to_thread.run_sync(work, limiter=self._limiter)


@contextmanager
def _said(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EIO:  # a bad sector: a sweep sets the blob aside, and it is written elsewhere
            message = f"the folder of blobs {root}: the disk cannot read what it wrote"
            raise CallError(CallErrorKind.FAILED, message, error="damaged", remedy="look at the disk") from error
        message = f"the folder of blobs {root}: {error.strerror or type(error).__name__}"
        remedy = "look at the disk's space and the folder's owner"
        raise CallError(CallErrorKind.UNAVAILABLE, message, remedy=remedy) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _free(root: Path) -> int:
    while not root.exists():
        root = root.parent
    return shutil.disk_usage(root).free


def _open(path: Path, offset: int) -> BinaryIO | None:
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    file.seek(offset)
    return file  # without a buffer, it reads as much as it is asked for, or what there is


def _create(part: Path) -> BinaryIO:
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return part.open("xb")


def _publish(file: BinaryIO, part: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    new = not path.parent.exists()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part.rename(path)
    _sync(path.parent)
    if new:
        _sync(path.parent.parent)


def _discard(file: BinaryIO, part: Path) -> None:
    with suppress(OSError):  # what its buffer holds may not fit on the disk
        file.close()
    part.unlink(missing_ok=True)


def _move(path: Path, to: Path) -> None:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.replace(to)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list(folder: Path) -> list[ObjectSeen]:
    found = list[ObjectSeen]()
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if DIGEST.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    about = entry.stat()
                    modified_ms = int(about.st_mtime * 1000)
                    found.append(ObjectSeen(digest=entry.name, size=about.st_size, modified_ms=modified_ms))
    return sorted(found, key=lambda seen: seen.digest)


def _tidy(folder: Path, before_ms: int) -> None:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime * 1000 < before_ms:
                    path.unlink()
