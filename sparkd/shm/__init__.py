"""Shared memory between the services of a node: written once by the sender, mapped by whoever reads it.

Theory of operation. Each writer has a folder of its own, `shm/<service>.<16 hex digits>`, with a file `owner` that it
holds a lock on for as long as it lives, and numbered files, the *slots*. A slot begins with a header (`HEADER`): magic,
generation, length. A message refers to (folder, slot, generation); a slot is used again and again, each time under a
new generation, so a reader that comes too late finds another one and counts a loss: never the wrong bytes.

Whoever reads holds a shared lock (`flock`) on the slot for as long as its mapping lives, for the mapping keeps the file
open; the writer takes an exclusive one, without waiting, before it writes. So no bytes change under a reader, a slow
reader costs the writer that one slot and no time, and what a killed process held is free at once: the kernel lets go of
its locks. A folder whose `owner` is not locked belongs to nobody: `sweep` removes it.

How much there is in all is bounded: a slot is added only while all files of all folders stay within the node's bound,
counted under a lock, and no writer may have more than half of it.
"""

from __future__ import annotations

from sparkd.shm.reader import GoneError, SharedReader
from sparkd.shm.room import FOLDER, NoRoomError, NoSharedMemoryError, make_root, sweep
from sparkd.shm.writer import SharedWriter

__all__ = [
    "FOLDER",
    "GoneError",
    "NoRoomError",
    "NoSharedMemoryError",
    "SharedReader",
    "SharedWriter",
    "make_root",
    "sweep",
]
