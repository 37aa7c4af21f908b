"""The ring of samples: a file of fixed size on tmpfs that survives the death of the daemon.

Theory of operation. After a header of one cell the file is cells of 64 bytes. A sample is one head (magic, number,
length, CRC) and its content, written by one `pwrite` into as many cells as it needs; at the end of the file the next
one begins at the first cell again. There is no pointer that could be wrong after a kill: whoever reads looks for heads
at the beginnings of cells, and takes what its CRC confirms. So a sample that is being written, was cut off by SIGKILL,
or is half overwritten is not there, and every other one is. The order is by number, which goes on over restarts.

It is written, not mapped: the pages of a mapping would count as the core's memory, and a full tmpfs would be a SIGBUS
instead of an error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sparkd.errors import RemoteMessageError
from sparkd.recorder.sample import Sample, pack, sample_of

CELL = 64
DEFAULT_BYTES = 1 << 20
MIN_BYTES = 1 << 16
_FILE_MAGIC = b"sparkfr1"
_HEADER = struct.Struct("<8sI36sB")
"""Magic, size of the file, boot id, whether its writer ended in order."""
_CLEAN_AT = 48
_MAGIC = b"\xf5smp"
_HEAD = struct.Struct("<4sIQI")
"""Magic, length of the content, number, CRC of what lies between magic and CRC and of the content."""


class Entry:
    """A sample in the ring, its content not decoded yet."""

    __slots__ = ("content", "end", "number")

    def __init__(self, number: int, content: bytes, end: int) -> None:
        self.number, self.content, self.end = number, content, end

    def sample(self) -> Sample:
        """Return the sample. Raises RemoteMessageError."""
        return sample_of(self.content)


class Ring:
    """What a ring file held when it was read."""

    def __init__(self, content: bytes) -> None:
        """Read *content*, a whole file. Raises ValueError if it is no ring."""
        if len(content) < MIN_BYTES or content[: len(_FILE_MAGIC)] != _FILE_MAGIC:
            raise ValueError("not a ring of the flight recorder")
        _, size, boot_id, clean = _HEADER.unpack_from(content)
        if size != len(content):
            raise ValueError(f"a ring of {len(content)} bytes that should have {size}")
        self.boot_id = boot_id.decode("ascii", "replace")
        """Of the machine, while it was written."""
        self.clean = bool(clean)
        """Whether its writer ended in order."""
        self.entries = sorted(_entries(content), key=lambda entry: entry.number)

    def samples(self, *, after: int = 0) -> Iterator[tuple[int, Sample]]:
        """Yield number and sample, oldest first, from beyond the number *after*.

        One at a time: all that a ring holds is ten times as large decoded, and a daemon that started after a crash
        would keep the memory.
        """
        for entry in self.entries:
            if entry.number > after:
                with suppress(RemoteMessageError):  # its CRC is right: another version wrote it
                    yield entry.number, entry.sample()

    def last(self) -> Sample | None:
        """Return the newest sample that can be read."""
        for entry in reversed(self.entries):
            with suppress(RemoteMessageError):
                return entry.sample()
        return None


def _entries(content: bytes) -> Iterator[Entry]:
    at = CELL
    while (at := content.find(_MAGIC, at)) >= 0:
        if at % CELL or at + _HEAD.size > len(content):
            at += 1
            continue
        _, length, number, crc = _HEAD.unpack_from(content, at)
        begin, end = at + _HEAD.size, at + _HEAD.size + length
        if end <= len(content) and _crc(length, number, memoryview(content)[begin:end]) == crc:
            yield Entry(number, content[begin:end], _round(end))
            at = _round(end)
        else:
            at += CELL


def read_ring(path: Path) -> Ring:
    """Read a ring, whether or not it is written meanwhile. Raises OSError, or ValueError if it is none."""
    return Ring(path.read_bytes())


class RingWriter:
    """Writes samples. One at a time for a file: the daemon's lock on its runtime folder sees to it."""

    def __init__(self, path: Path, *, size_bytes: int, boot_id: str) -> None:
        """Write to *path*, which `open` makes or continues."""
        self.path = path
        self._size = max(_round(size_bytes), MIN_BYTES)
        self._boot_id = boot_id
        self._file = -1
        self._at = CELL
        self.number = 0
        """Of the last sample."""

    def open(self) -> Ring | None:
        """Open the file, making it if need be; return what a run before left, if it is of this boot.

        Raises OSError, such as when there is no room: all of it is taken at once.
        """
        self.close(clean=False)
        before = self._before()
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if before else os.O_TRUNC)
        file = os.open(self.path, flags, 0o640)
        try:
            os.posix_fallocate(file, 0, self._size)
            os.pwrite(file, _HEADER.pack(_FILE_MAGIC, self._size, self._boot_id.encode("ascii"), 0), 0)
        except OSError:
            os.close(file)
            if not before:
                self.path.unlink(missing_ok=True)
            raise
        self._file, self._at = file, CELL
        if before and before.entries:
            self._at, self.number = before.entries[-1].end, before.entries[-1].number
        return before

    def _before(self) -> Ring | None:
        try:
            ring = read_ring(self.path)
        except (OSError, ValueError):
            return None
        fits = self.path.stat().st_size == self._size
        return ring if fits and ring.boot_id == self._boot_id else None

    def append(self, sample: Sample) -> int:
        """Write *sample*; return its number. Raises OSError; ValueError if it is larger than the ring."""
        content, number = pack(sample), self.number + 1
        record = _HEAD.pack(_MAGIC, len(content), number, _crc(len(content), number, content)) + content
        record = record.ljust(_round(len(record)), b"\0")
        if len(record) > self._size - CELL:
            raise ValueError(f"a sample of {len(record)} bytes; the ring has {self._size}")
        if self._at + len(record) > self._size:
            os.pwrite(self._file, bytes(self._size - self._at), self._at)  # or what lies there would never go
            self._at = CELL
        os.pwrite(self._file, record, self._at)
        self._at += len(record)
        self.number = number
        return number

    def close(self, *, clean: bool) -> None:
        """Close the file; *clean* if the daemon ends by its own orders."""
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                if clean:
                    os.pwrite(file, b"\1", _CLEAN_AT)
            finally:
                os.close(file)

    @property
    def is_open(self) -> bool:
        """Whether samples can be written."""
        return self._file >= 0


def _crc(length: int, number: int, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack("<IQ", length, number)))


def _round(size: int) -> int:
    return -(-size // CELL) * CELL
