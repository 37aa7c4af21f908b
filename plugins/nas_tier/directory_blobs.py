"""Blobs in tier 2: files called by the SHA-256 of what is in them. All functions block, and raise OSError."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from sparkd import CallError, CallErrorKind

from .directory_files import Layout, make_folder, part_of, replace, sync_folder


def has(layout: Layout, digest: str) -> bool:
    """Whether there is a blob; one that waits in the trash is taken back."""
    path = layout.blob(digest)
    if path.exists():
        return True
    return _taken_back(layout, digest, path)


def _taken_back(layout: Layout, digest: str, path: Path) -> bool:
    thrown = layout.trash / digest
    if not thrown.exists():
        return False
    make_folder(path.parent)
    with suppress(FileNotFoundError):
        os.utime(thrown)  # it is young again: the sweep leaves it alone for an hour
        thrown.replace(path)
        sync_folder(path.parent)
    return path.exists()


class Incoming:
    """A blob that is being written."""

    def __init__(self, layout: Layout, digest: str, size: int) -> None:
        """Begin one."""
        self._path = layout.blob(digest)
        self._digest, self._size = digest, size
        make_folder(self._path.parent)
        self._part = part_of(self._path)
        self._file = self._part.open("xb")
        self._sum = hashlib.sha256()
        self._had = 0

    def add(self, chunk: bytes) -> None:
        """Add bytes. Raises CallError if there are too many."""
        self._had += len(chunk)
        if self._had > self._size:
            raise self._refused()
        self._sum.update(chunk)
        self._file.write(chunk)

    def finish(self) -> None:
        """Make it visible, to last. Raises CallError if it is not what it should be."""
        if self._had != self._size or self._sum.hexdigest() != self._digest:
            raise self._refused()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        replace(self._part, self._path)
        sync_folder(self._path.parent)

    def _refused(self) -> CallError:
        text = (
            f"a blob of {self._size} bytes with the SHA-256 {self._digest} expected, got {self._had} bytes of another"
        )
        return CallError(CallErrorKind.FAILED, text, error="refused")

    def give_up(self) -> None:
        """Leave nothing behind, unless it is finished."""
        with suppress(OSError):
            self._file.close()
            self._part.unlink(missing_ok=True)


class Outgoing:
    """A blob that is being read; a whole one is compared with its digest before the last bytes are given."""

    def __init__(self, layout: Layout, digest: str, offset: int, length: int | None, chunk: int) -> None:
        """Open one. Raises CallError if there is none."""
        self._layout, self._digest, self._chunk = layout, digest, chunk
        self._path = layout.blob(digest)
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            if not _taken_back(layout, digest, self._path):
                raise CallError(CallErrorKind.FAILED, f"there is no blob {digest}", error="missing") from None
            self._file = self._path.open("rb", buffering=0)
        self._sum = hashlib.sha256() if offset == 0 and length is None else None
        self._left = length
        self._held = b""
        if offset:
            self._file.seek(offset)

    def next(self) -> bytes:
        """Return what follows; nothing at the end. Raises CallError if it was damaged; then it is set aside."""
        while True:
            wanted = self._chunk if self._left is None else min(self._chunk, self._left)
            chunk = self._file.read(wanted) if wanted else b""
            if self._left is not None:
                self._left -= len(chunk or b"")
            if self._sum is None:
                return chunk or b""
            if not chunk:
                held, self._held = self._held, b""
                if self._sum.hexdigest() != self._digest:
                    set_blob_aside(self._layout, self._digest)
                    raise CallError(CallErrorKind.FAILED, f"blob {self._digest} is damaged", error="damaged")
                return held
            self._sum.update(chunk)
            held, self._held = self._held, chunk
            if held:
                return held

    def close(self) -> None:
        """Close it."""
        self._file.close()


def set_blob_aside(layout: Layout, digest: str) -> None:
    """Put a damaged blob where nobody takes it for what it was, so that it can be written again."""
    make_folder(layout.damaged)
    with suppress(FileNotFoundError):
        layout.blob(digest).replace(layout.damaged / digest)


def is_whole(layout: Layout, digest: str) -> bool:
    """Whether a blob is what it is called; True if it is gone by now."""
    found = hashlib.sha256()
    try:
        with layout.blob(digest).open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except FileNotFoundError:
        return True
    return found.hexdigest() == digest
