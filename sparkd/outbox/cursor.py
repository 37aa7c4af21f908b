"""How far a reader has come: one small file, written in place, so that passing records needs no room on the disk.

Two slots are written in turn, each with a counter and a checksum; the valid one with the higher counter counts. So a
write that is torn leaves the one before it.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from sparkd.lasting import sync_folder
from sparkd.steps import reached

_SLOT = struct.Struct("<QQI")
_HEAD = struct.Struct("<QQ")
SLOT_BYTES = 512
"""A sector: what a disk writes whole or not at all."""
SLOTS = 2


def encode_slot(counter: int, seq: int) -> bytes:
    """Return the content of a slot."""
    head = _HEAD.pack(counter, seq)
    return head + struct.pack("<I", zlib.crc32(head))


def decode_slots(content: bytes) -> tuple[int, int]:
    """Return (counter, seq) of the newest valid slot; (0, 0) if none is."""
    best = (0, 0)
    for number in range(SLOTS):
        slot = content[number * SLOT_BYTES : number * SLOT_BYTES + _SLOT.size]
        if len(slot) == _SLOT.size:
            counter, seq, crc = _SLOT.unpack(slot)
            if crc == zlib.crc32(slot[: _HEAD.size]) and counter > best[0]:
                best = (counter, seq)
    return best


def read_cursor(path: Path) -> int:
    """Return the last number passed, without opening the cursor for writing."""
    try:
        return decode_slots(path.read_bytes())[1]
    except OSError:
        return 0


class Cursor:
    """An open cursor; only its reader has it open."""

    def __init__(self, path: Path) -> None:
        """Open the cursor at *path*, or make it at the beginning of the stream."""
        if not path.parent.exists():
            path.parent.mkdir(mode=0o750, exist_ok=True)
            sync_folder(path.parent.parent)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            content = os.pread(self._descriptor, SLOTS * SLOT_BYTES, 0)
            if len(content) < SLOTS * SLOT_BYTES:  # new, or cut short: what it still says is kept
                os.pwrite(self._descriptor, bytes(SLOTS * SLOT_BYTES - len(content)), len(content))
                os.fsync(self._descriptor)
                sync_folder(path.parent)
            self._counter, self.seq = decode_slots(content)
        except BaseException:
            os.close(self._descriptor)
            raise

    def advance(self, seq: int) -> None:
        """Pass everything up to *seq*, durably; never goes back."""
        if seq <= self.seq:
            return
        counter = self._counter + 1
        reached("outbox.before-cursor")
        os.pwrite(self._descriptor, encode_slot(counter, seq), counter % SLOTS * SLOT_BYTES)
        os.fdatasync(self._descriptor)
        self._counter, self.seq = counter, seq  # only now: a failed write is repeated in the same slot
        reached("outbox.after-cursor")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
