"""A stream that came out of a backup: it must give no number that the original gave after the backup was made.

Receivers know a record by (node, service, stream, epoch, number) for ever. A restored stream that simply went on would
give numbers that they have already, and they would take its records for doubles. So it goes on far beyond.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sparkd.lasting import sync_folder
from sparkd.outbox.damage import finish_repairs
from sparkd.outbox.files import LOCK_LIMIT_S, Files, locked, storage
from sparkd.outbox.losses import note_gap
from sparkd.outbox.segment import Segment

LEAP = 1 << 40
"""More numbers than a stream gives between a backup and its use: at 100,000 records/s they last 127 days; yet a
thousand restores stay below 2^53, what JSON can carry."""
_WHY = "came after the backup that was restored"


def leap(root: Path) -> list[str]:
    """Let every stream beneath *root* go on far beyond its last number; return `service/stream` of each. Blocks.

    Raises StorageError. Nobody may have the streams open.
    """
    found = []
    for folder in sorted(path.parent for path in root.glob("*/*/stream.json")):
        files = Files(folder)
        with (
            storage(folder, "go on after the restore"),
            locked(folder / "lock", limit_s=LOCK_LIMIT_S),
            locked(folder / "trim.lock", limit_s=LOCK_LIMIT_S),
        ):
            finish_repairs(files)
            _leap(files)
        found.append(f"{folder.parent.name}/{folder.name}")
    return found


def _leap(files: Files) -> None:
    firsts = files.segments()
    if not firsts:
        raise sqlite3.OperationalError("it has no segments")
    with closing(Segment.open(files.segment(firsts[-1]))) as last:
        beyond = last.last + LEAP
        segment = Segment.create(
            files.segment(beyond), first=beyond, marks=last.marks, keys=last.keys_to_carry(1 << 20)
        )
        segment.close()
        note_gap(files, last.last + 1, beyond - 1, _WHY)
        last.fold()
    sync_folder(files.folder)
