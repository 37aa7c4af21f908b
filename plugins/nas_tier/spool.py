"""The spool: large values of this node's writes, on its own disk until every tier has them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import CHUNK_BYTES, MAX_VALUE_BYTES, CallError, CallErrorKind

RESERVE_BYTES = 64 << 20
"""Left free on the disk: other services live on it."""


class Spool:
    """A folder of files called by the SHA-256 of what is in them."""

    def __init__(self, folder: Path) -> None:
        """Use *folder*. Blocks."""
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._count = 0
        self._held: Counter[str] = Counter()

    def tidy(self, wanted: set[str]) -> int:
        """Remove what nobody waits for, and what was never finished; return how much. Blocks."""
        removed = 0
        for path in self._folder.iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    @contextmanager
    def holding(self, digest: str) -> Iterator[None]:
        """Keep a blob though an earlier write that names it has arrived everywhere: another is about to."""
        self._held[digest] += 1
        try:
            yield
        finally:
            self._held[digest] -= 1

    async def take(self, chunks: AsyncIterator[bytes]) -> tuple[str, int]:
        """Store a stream, synced; return its digest and size.

        Raises CallError: `invalid-params` if it is too large, `unavailable` if the disk refuses.
        """
        self._count += 1
        part = _Part(self._folder / f"{os.getpid()}-{self._count}.part")
        try:
            async for chunk in chunks:
                if part.size + len(chunk) > MAX_VALUE_BYTES:
                    text = f"the value: at most {MAX_VALUE_BYTES} bytes expected"
                    raise CallError(CallErrorKind.INVALID_PARAMS, text, field="chunks")
                await anyio.to_thread.run_sync(part.add, chunk)
            return await anyio.to_thread.run_sync(part.finish), part.size
        except OSError as error:
            text = f"the value cannot be kept in {self._folder}: {error.strerror or error}"
            remedy = "make room on the disk that holds the state folder"
            raise CallError(CallErrorKind.UNAVAILABLE, text, remedy=remedy) from error
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(part.give_up)

    async def read(self, digest: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob. Raises OSError if it is not here."""
        left = MAX_VALUE_BYTES if length is None else length
        file = await anyio.to_thread.run_sync((self._folder / digest).open, "rb")
        try:
            file.seek(offset)
            while left > 0 and (chunk := await anyio.to_thread.run_sync(file.read, min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def has(self, digest: str) -> bool:
        """Whether it is here."""
        return await anyio.to_thread.run_sync((self._folder / digest).exists)

    async def forget(self, digests: Iterable[str]) -> None:
        """Remove blobs that every tier has."""
        for digest in digests:
            if not self._held[digest]:
                with suppress(OSError):  # what is left is removed at the next start
                    await anyio.to_thread.run_sync((self._folder / digest).unlink)
        self._held = +self._held


class _Part:
    """A file that is being written. All methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def add(self, chunk: bytes) -> None:
        if shutil.disk_usage(self._path.parent).free < RESERVE_BYTES + len(chunk):
            raise OSError(28, "too little room is left on the disk")
        self._digest.update(chunk)
        self._file.write(chunk)
        self.size += len(chunk)

    def finish(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        digest = self._digest.hexdigest()
        self._path.rename(self._path.with_name(digest))
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return digest

    def give_up(self) -> None:
        with suppress(OSError):
            self._file.close()
            self._path.unlink(missing_ok=True)
