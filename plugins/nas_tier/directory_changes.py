"""What changed in tier 2: a log of each node, which it alone appends to, and the others read from where they were.

A cursor is `walk:<key>|<logs>` while all records are looked through for the first time, and `<logs>` after that, where
*logs* is `node:number:offset` for each node. Where the logs end is noted before the walk, so nothing that is written
meanwhile is missed. All functions block, and raise OSError.
"""

from __future__ import annotations

import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from sparkd import MemoryRecord, TierChanges

from .directory_files import HEAD, DamagedError, Layout, key_folders, make_folder, names_in, read_whole, unpacked
from .directory_records import read_head

FRAME = struct.Struct(">HI")
ROTATE_BYTES = 4 << 20
KEEP_S = 30 * 86_400.0
SMALL = 4096
NODE = re.compile(r"[0-9a-f]{32}")
LOG = re.compile(r"\d{6}\.log")
Places = dict[str, tuple[int, int]]


class ChangeLog:
    """This node's own log."""

    def __init__(self, layout: Layout, node_id: str) -> None:
        """Append to the newest log of *node_id*."""
        self._folder = layout.changes / node_id
        self._number = -1

    def add(self, record: MemoryRecord) -> None:
        """Note that a key changed, to last with the next sync: what is noted is on disk already, and may be found."""
        body = f"{record.namespace}\0{record.key}".encode()
        frame = FRAME.pack(len(body), zlib.crc32(body)) + body
        path = self._current()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except FileNotFoundError:
            make_folder(self._folder)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            size = os.fstat(descriptor).st_size
            os.write(descriptor, frame)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if size > ROTATE_BYTES:
            self._number += 1

    def _current(self) -> Path:
        if self._number < 0:
            self._number = max((int(name[:6]) for name in names_in(self._folder) if LOG.fullmatch(name)), default=-1)
            # What a killed process left may end in the midst of a frame: a new log is begun after it.
            self._number += 1
        return self._folder / f"{self._number:06d}.log"


def changes(layout: Layout, cursor: str, *, limit: int, whole: bool) -> TierChanges:
    """Return what changed after *cursor*. One that nobody can make sense of begins at the beginning."""
    walked, _, logs = cursor.rpartition("|")
    known = _parsed(logs)
    if not cursor or known is None or _removed(layout, known):
        walked, known = "walk:", _ends(layout)
    if walked.startswith("walk:"):
        records, last = _walked(layout, walked.removeprefix("walk:"), limit)
        if last:
            return TierChanges(records=_shown(records, whole), cursor=f"walk:{last}|{_text(known)}", more=True)
        return TierChanges(records=_shown(records, whole), cursor=_text(known), more=False)
    names = list(_logged(layout, known, limit))
    records = [record for name in dict.fromkeys(names) if (record := read_head(layout, *name)) is not None]
    return TierChanges(records=_shown(records, whole), cursor=_text(known), more=len(names) >= limit)


def _shown(records: list[MemoryRecord], whole: bool) -> list[MemoryRecord]:  # noqa: FBT001 - as the contract calls it
    if whole:
        return records
    return [
        record if len(record.value or b"") <= SMALL else msgspec.structs.replace(record, value=None)
        for record in records
    ]


def _walked(layout: Layout, after: str, limit: int) -> tuple[list[MemoryRecord], str]:
    """Return records in the order of their folders; and the last folder, nothing at the end."""
    records: list[MemoryRecord] = []
    for count, folder in enumerate(key_folders(layout, after), 1):
        with suppress(FileNotFoundError, DamagedError, NotADirectoryError):  # a damaged one is for the sweep
            records.append(unpacked(read_whole(folder / HEAD)))
        if count >= limit:
            return records, folder.name
    return records, ""


def _ends(layout: Layout) -> Places:
    """Return where the log of each node ends."""
    found: Places = {}
    for node in names_in(layout.changes):
        logs = [name for name in names_in(layout.changes / node) if LOG.fullmatch(name)]
        if NODE.fullmatch(node) and logs:
            found[node] = (int(logs[-1][:6]), (layout.changes / node / logs[-1]).stat().st_size)
    return found


def _removed(layout: Layout, known: Places) -> bool:
    """Whether a log that was not read to its end is gone."""
    for node, (number, _) in known.items():
        logs = [int(name[:6]) for name in names_in(layout.changes / node) if LOG.fullmatch(name)]
        if not logs or min(logs) > number + 1 or (number not in logs and min(logs) > number):
            return True
    return False


def _logged(layout: Layout, known: Places, limit: int) -> Iterator[tuple[str, str]]:
    """Iterate over what the logs say after *known*, which is moved on with it."""
    count = 0
    for node in names_in(layout.changes):
        if not NODE.fullmatch(node):
            continue
        first, _ = known.get(node, (0, 0))
        for name in names_in(layout.changes / node):
            if not LOG.fullmatch(name) or int(name[:6]) < first:
                continue
            number = int(name[:6])
            offset = known[node][1] if known.get(node, (-1, 0))[0] == number else 0
            known[node] = (number, offset)
            for size, entry in _frames(layout.changes / node / name, offset):
                known[node] = (number, known[node][1] + size)
                yield entry
                count += 1
                if count >= limit:
                    return


def _frames(path: Path, offset: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Iterate over whole frames after *offset*, each with its size; what follows a torn one is for later."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(ROTATE_BYTES + (1 << 20))
    except FileNotFoundError:
        return
    at = 0
    while at + FRAME.size <= len(content):
        length, checksum = FRAME.unpack_from(content, at)
        body = content[at + FRAME.size : at + FRAME.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        namespace, _, key = body.decode("utf-8", "replace").partition("\0")
        yield FRAME.size + length, (namespace, key)
        at += FRAME.size + length


def _text(known: Places) -> str:
    return ",".join(f"{node}:{number}:{offset}" for node, (number, offset) in sorted(known.items())) or "-"


def _parsed(text: str) -> Places | None:
    if text == "-":
        return {}
    found: Places = {}
    for part in text.split(","):
        node, _, rest = part.partition(":")
        number, _, offset = rest.partition(":")
        if not NODE.fullmatch(node) or not number.isdigit() or not offset.isdigit():
            return None
        found[node] = (int(number), int(offset))
    return found


def remove_old_logs(layout: Layout) -> None:
    """Remove logs that were written last a month ago; the newest of each node stays."""
    for node in names_in(layout.changes):
        for name in [one for one in names_in(layout.changes / node) if LOG.fullmatch(one)][:-1]:
            path = layout.changes / node / name
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > KEEP_S:
                    path.unlink()
