"""The files of the trail: lines appended in a chain, synced, bounded. Every method blocks.

`NNNNNNNN.jsonl` hold the lines, oldest first; a file that is full is followed by the next, and the oldest go. `head`
says where the trail begins and ends, so that a trail whose end or beginning was cut off can be told from a whole one.
It is written after the lines are on disk: a trail may be ahead of its head, never behind it.
"""

from __future__ import annotations

import hashlib
import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from sparkd.audit.deed import NO_HASH, Deed, Entry, entry_of, line_of
from sparkd.lasting import make_lasting, sync_folder, write_whole

FILES = 8
"""The trail is given up in eighths."""
SUFFIX = ".jsonl"
MODE = 0o640
STARTED, STOPPED = "audit.started", "audit.stopped"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where the trail begins and ends."""

    first: int
    """Number of the oldest line that is kept."""
    seq: int
    """Number of the newest line."""
    hash: str
    """SHA-256 of the newest line."""


class TrailFiles:
    """The writing end. One process has it."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        """Write to *folder*, and keep *max_bytes* there."""
        self.folder = folder
        self._max_bytes = max_bytes
        self._file: Path | None = None
        self._descriptor = -1
        self._size = 0
        self._seq, self._hash, self._first = 0, NO_HASH, 1

    def open(self) -> Deed:
        """Take up the trail where it ends, without what a crash tore; return what there is to say of its end."""
        make_lasting(self.folder)
        head = read_head(self.folder)
        files = trail_files(self.folder)
        torn = _mend(files[-1]) if files else 0
        last = next(filter(None, map(_last_line, reversed(files))), None)
        said: dict[str, object] = {"torn_bytes": torn} if torn else {}
        if last is not None and (entry := entry_of(last)) is not None:
            self._seq, self._hash = entry.seq, _hash(last)
            said["clean"] = entry.method == STOPPED
        if head is not None:
            self._first = head.first
            if head.seq > self._seq:  # the next numbers must not be those of lines that are gone
                said["lines_missing"] = head.seq - self._seq
                self._seq = head.seq
        return Deed(door="daemon", method=STARTED, outcome="ok", params=said)

    def append(self, deeds: Sequence[Deed]) -> list[Entry]:
        """Write *deeds*, synced; return their entries. Raises OSError, and then nothing is written."""
        self._ready()
        entries, content, before = [], bytearray(), self._hash
        for number, deed in enumerate(deeds, self._seq + 1):
            entry = Entry.of(deed, seq=number, prev=before, user=_user(deed.uid))
            line = line_of(entry)
            before = _hash(line)
            content += line + b"\n"
            entries.append(entry)
        if self._size and self._size + len(content) > self._max_bytes // FILES:
            self._next()
        try:
            _write_all(self._descriptor, content)
            os.fsync(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)  # half a line, or one that nobody knows to be there
            raise
        self._size += len(content)
        self._seq, self._hash = self._seq + len(deeds), before
        self._trim()
        with suppress(OSError):
            self._write_head()
        return entries

    def close(self) -> None:
        """Write nothing more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ready(self) -> None:
        """Have a file to append to: the last, or a new one if somebody has removed it."""
        if self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink:
            return
        self.close()
        make_lasting(self.folder)
        files = trail_files(self.folder)
        self._take(files[-1] if files else self.folder / f"{1:08d}{SUFFIX}")

    def _next(self) -> None:
        number = int(self._file.stem) + 1 if self._file else 1
        self.close()
        self._take(self.folder / f"{number:08d}{SUFFIX}")

    def _take(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        self._file, self._size = file, os.fstat(self._descriptor).st_size
        sync_folder(self.folder)

    def _trim(self) -> None:
        """Remove the oldest files; the head says so first, so that it is never taken for a cut."""
        files = trail_files(self.folder)
        sizes = [file.stat().st_size for file in files]
        while len(files) > 1 and (sum(sizes) > self._max_bytes or len(files) > FILES):
            following = _first_line(files[1])
            entry = entry_of(following) if following else None
            if entry is not None:
                self._first = entry.seq
                self._write_head()
            files.pop(0).unlink(missing_ok=True)
            sizes.pop(0)

    def _write_head(self) -> None:
        head = Head(first=self._first, seq=self._seq, hash=self._hash)
        write_whole(self.folder / "head", msgspec.json.encode(head) + b"\n", mode=MODE)


def trail_files(folder: Path) -> list[Path]:
    """Return the files of the trail, oldest first."""
    return sorted(file for file in folder.glob(f"*{SUFFIX}") if file.stem.isdigit())


def read_head(folder: Path) -> Head | None:
    """Return what the head says; None if it is not there, or damaged."""
    try:
        return msgspec.json.decode((folder / "head").read_bytes(), type=Head)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def _mend(file: Path) -> int:
    """Take off what stands after the last whole line of *file*; return how many bytes."""
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    while end and entry_of(content[content.rfind(b"\n", 0, end - 1) + 1 : end - 1]) is None:
        end = content.rfind(b"\n", 0, end - 1) + 1  # a power cut may leave a hole, and line ends within it
    if end < len(content):
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return len(content) - end


def _last_line(file: Path) -> bytes | None:
    lines = file.read_bytes().splitlines()
    return lines[-1] if lines else None


def _first_line(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.readline().rstrip(b"\n")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _write_all(descriptor: int, content: bytes | bytearray) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@lru_cache(maxsize=256)
def _user(uid: int | None) -> str:
    if uid is None:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return ""
