"""How tier 2 stands in files, and reading and writing them. All functions block, and raise OSError.

    tier.json                        what this tier is: ident, floor
    records/ab/<key>/head            a copy of the newest version of a key: one open at a known path reads it
    records/ab/<key>/<version>       each version, never changed
    blobs/ab/<sha256>                values, never changed
    changes/<node>/<number>.log      what each node wrote, in its order: it alone appends there
    trash/ damaged/                  blobs that nothing names; what is not what it should be

Users' words are never a file's name: a key is a digest. Files come by temporary file, sync, rename, sync of the folder;
nothing is ever changed in place, so what is read is whole, whoever writes, dies, or mounts it twice.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

import msgspec

from sparkd import MemoryRecord, key_digest

from .clock import VERSION

MAGIC = b"SMR1"
HEADER = struct.Struct(">4sII")
HEAD = "head"
PART = ".part-"
MAX_RECORD = 8 << 20
_numbers = itertools.count()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MemoryRecord).decode


class DamagedError(ValueError):
    """A file is not what it should be."""


def packed(record: MemoryRecord) -> bytes:
    """Return *record* as a file holds it, with a checksum."""
    body = _encode(record)
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


def unpacked(content: bytes) -> MemoryRecord:
    """Return the record in a file. Raises DamagedError."""
    if len(content) < HEADER.size:
        raise DamagedError("it is too short")
    magic, length, checksum = HEADER.unpack_from(content)
    body = content[HEADER.size :]
    if magic != MAGIC or len(body) != length or zlib.crc32(body) != checksum:
        raise DamagedError("its checksum is wrong")
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DamagedError(str(error)) from error


def read_whole(path: Path) -> bytes:
    """Return what is in a file; a handle that went stale (NFS) is opened once more."""
    for left in (1, 0):
        try:
            with path.open("rb", buffering=0) as file:
                return file.read(MAX_RECORD) or b""
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    raise AssertionError("it returned, or raised")


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* last. Some network file systems refuse that, as they always do it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def part_of(path: Path) -> Path:
    """Return a name beside *path* that nobody else uses."""
    return path.with_name(f"{PART}{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, to last."""
    try:
        folder.mkdir(mode=0o770)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o770)
    sync_folder(folder.parent)


def write_file(path: Path, content: bytes) -> None:
    """Put *content* into *path*, whole, to last; what is there is replaced."""
    with written_beside([path], content) as parts:
        replace(parts[0], path)
        parts.clear()
    sync_folder(path.parent)


@contextmanager
def written_beside(paths: Sequence[Path], content: bytes) -> Iterator[list[Path]]:
    """Write *content* into a file beside each of *paths*, all in one folder, to last; those left in the list go again.

    They are synced one after the other when all are written: most of that is done by the first.
    """
    parts = [part_of(path) for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(_new(part)) for part in parts]
            for file in files:
                view = memoryview(content)
                while view:
                    view = view[file.write(view) :]
            for file in files:
                os.fsync(file.fileno())
        yield parts
    finally:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _new(path: Path) -> FileIO:
    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)

    try:
        return FileIO(str(path), "w", opener=create)
    except FileNotFoundError:
        make_folder(path.parent)
        return FileIO(str(path), "w", opener=create)


def replace(source: Path, target: Path) -> None:
    """Rename a file over another. SMB refuses that while somebody has the other open: then that one goes first."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EACCES, errno.ETXTBSY) or not target.exists():
            raise
        aside = part_of(target)
        target.rename(aside)
        source.replace(target)
        with suppress(OSError):
            aside.unlink()


class Layout:
    """Where everything stands."""

    def __init__(self, root: Path) -> None:
        """Lay out the tier in *root*."""
        self.root = root
        self.about = root / "tier.json"
        self.records, self.blobs = root / "records", root / "blobs"
        self.changes, self.trash, self.damaged = root / "changes", root / "trash", root / "damaged"

    def key(self, namespace: str, key: str) -> Path:
        """Return the folder of a key."""
        digest = key_digest(namespace, key)
        return self.records / digest[:2] / digest

    def blob(self, digest: str) -> Path:
        """Return the file of a blob. Raises ValueError for what is no digest."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):  # noqa: PLR2004 - SHA-256
            raise ValueError(f"64 hexadecimal digits expected, got {digest[:80]!r}")
        return self.blobs / digest[:2] / digest


def versions(folder: Path) -> list[str]:
    """Return the versions in the folder of a key, newest first; none if there is no such folder."""
    return [name for name in reversed(names_in(folder)) if VERSION.fullmatch(name)]


def names_in(folder: Path) -> list[str]:
    """Return the names in *folder*, sorted; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def key_folders(layout: Layout, after: str = "") -> Iterator[Path]:
    """Iterate over the folders of keys in the order of their names, after the one called *after*."""
    for first in names_in(layout.records):
        if first >= after[:2]:
            for name in names_in(layout.records / first):
                if name > after:
                    yield layout.records / first / name
