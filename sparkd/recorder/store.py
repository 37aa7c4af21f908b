"""The minutes on disk: a chain of bounded files, written together, read without a daemon.

Theory of operation. `NNNNNNNN.folds` is a chain of frames: magic, kind, length, CRC, content. A flash card is spared:
minutes are kept in memory and written a few at a time with one sync (`recording` says how many), and after a crash of
the daemon alone those that were not are folded again from the ring. A tail that a power cut tore is cut off before
the next frame is written; a frame that is damaged is skipped. Each time the totals are written too, so the last file
has them when the first is long gone. A frame `end` says that the daemon ended by its own orders.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from sparkd.errors import RemoteMessageError
from sparkd.recorder.fold import Fold, Totals
from sparkd.recorder.sample import pack, unpack

FILES = 10
"""The store is given up in tenths."""
CLOCK_STEP_S = 3600.0
_SUFFIX = ".folds"
_MAGIC = b"\xf5fld"
_HEAD = struct.Struct("<4scII")
_FOLD, _TOTALS, _END = b"F", b"T", b"E"
_decode_fold = msgspec.msgpack.Decoder(Fold).decode
_decode_totals = msgspec.msgpack.Decoder(Totals).decode
T = TypeVar("T")


class FoldStore:
    """Writes minutes and totals into a folder. Blocks: not for the event loop."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Keep *max_bytes* in *folder*."""
        self.folder = folder
        self._max_bytes = max_bytes
        self._mended = False

    def write(self, folds: list[Fold], totals: Totals, *, end: bool = False) -> int:
        """Write *folds* and *totals* as one, and sync them; return how many bytes. Raises OSError.

        On a disk that is full the oldest file goes, and what could be written of this is taken back.
        """
        frames = [_frame(_FOLD, pack(fold)) for fold in folds]
        content = b"".join([*frames, _frame(_TOTALS, pack(totals)), *([_frame(_END, b"")] if end else [])])
        try:
            self._append(content)
        except OSError:
            if not self._drop_oldest():
                raise
            self._append(content)
        self._trim()
        return len(content)

    def _append(self, content: bytes) -> None:
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        files = fold_files(self.folder)
        file = files[-1] if files else self._next(None)
        if files and not self._mended:
            _cut_tail(file)
        self._mended = True
        if files and file.stat().st_size + len(content) > self._max_bytes // FILES:
            file = self._next(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            before = os.fstat(descriptor).st_size
            try:
                written = os.write(descriptor, content)
                while written < len(content):  # the kernel says only to the next write that there is no room
                    written += os.write(descriptor, content[written:])
                os.fdatasync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

    def _next(self, file: Path | None) -> Path:
        return self.folder / f"{int(file.stem) + 1 if file else 1:08d}{_SUFFIX}"

    def _trim(self) -> None:
        files = fold_files(self.folder)
        sizes = [file.stat().st_size for file in files]
        while len(files) > 1 and sum(sizes) > self._max_bytes:
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def _drop_oldest(self) -> bool:
        files = fold_files(self.folder)
        if len(files) > 1:
            files[0].unlink(missing_ok=True)
        return len(files) > 1


class Left:
    """What the run before left on disk."""

    def __init__(self, folder: Path) -> None:
        """Read the newest file that has anything in it. Raises OSError."""
        self.totals: Totals | None = None
        self.last: Fold | None = None
        self.clean = True
        """Whether it ended in order; true if there was none."""
        for file in reversed(fold_files(folder)):
            for kind, content in _frames(file):
                self._take(kind, content)
            if self.totals is not None:
                return

    def _take(self, kind: bytes, content: bytes) -> None:
        self.clean = kind == _END
        with suppress(RemoteMessageError):
            if kind == _TOTALS:
                self.totals = _decoded(_decode_totals, content)
            elif kind == _FOLD:
                self.last = _decoded(_decode_fold, content)


def read_folds(folder: Path, *, since: float = 0.0) -> Iterator[Fold]:
    """Yield the minutes on disk, in the order written. What is damaged, or goes meanwhile, is left out.

    Files that were not written after *since* (wall clock, with an hour for its steps) are not read.
    """
    for file in fold_files(folder):
        with suppress(OSError):
            if file.stat().st_mtime < since - CLOCK_STEP_S:
                continue
            for kind, content in _frames(file):
                if kind == _FOLD:
                    with suppress(RemoteMessageError):
                        yield _decoded(_decode_fold, content)


def fold_files(folder: Path) -> list[Path]:
    """Return the files of the store, oldest first."""
    return sorted(file for file in folder.glob(f"*{_SUFFIX}") if file.stem.isdigit())


def _decoded(decode: Callable[[bytes], T], content: bytes) -> T:
    try:
        return decode(unpack(content))
    except msgspec.MsgspecError as error:
        raise RemoteMessageError(f"not a record of the flight recorder: {error}") from None


def _frame(kind: bytes, content: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, kind, len(content), zlib.crc32(content, zlib.crc32(kind))) + content


def _frames(file: Path) -> Iterator[tuple[bytes, bytes]]:
    for kind, content, _ in _whole(file.read_bytes()):
        yield kind, content


def _whole(held: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, content and end of each frame that is whole."""
    at = 0
    while (at := held.find(_MAGIC, at)) >= 0 and at + _HEAD.size <= len(held):
        _, kind, length, crc = _HEAD.unpack_from(held, at)
        end = at + _HEAD.size + length
        content = held[at + _HEAD.size : end]
        if end <= len(held) and zlib.crc32(content, zlib.crc32(kind)) == crc:
            yield kind, content, end
            at = end
        else:
            at += 1


def _cut_tail(file: Path) -> None:
    held = file.read_bytes()
    end = max((end for _, _, end in _whole(held)), default=0)
    if end < len(held):
        os.truncate(file, end)
