"""What the tests of the outbox on disk share: a box, records, all that a reader finds, a process that can be killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sparkd import Record, Stored
from sparkd.outbox import DiskOutbox, Limits
from sparkd.outbox.files import Files

EMPTY_READS = 3
"""A read is empty, too, when all it passed was damaged."""
REPOSITORY = Path(__file__).parents[2]


def box(root: Path, limits: Limits | None = None) -> DiskOutbox:
    return DiskOutbox(
        root, node_id="n" * 32, service="s", limits=limits or Limits(), clock_is_synchronised=lambda: True
    )


def files(root: Path) -> Files:
    return Files(root / "s" / "e")


def records(count: int, *, start: int = 0, size: int = 10) -> list[Record]:
    return [Record(topic="t", body=b"%d:" % (start + n) + b"x" * size) for n in range(count)]


def numbers(found: Sequence[Stored]) -> list[int]:
    return [stored.seq for stored in found]


async def read_all(root: Path, *, name: str = "all", advance: bool = False) -> list[Stored]:
    """Return everything that the reader *name* finds from its cursor on."""
    found: list[Stored] = []
    empty = 0
    async with box(root).reader("s", "e", name=name) as reader:
        while empty < EMPTY_READS:
            batch = await reader.read(max_records=500, max_bytes=1 << 20)
            found += batch
            empty = 0 if batch else empty + 1
            if advance and batch:
                await reader.advance(batch[-1].seq)
    return found


def run(script: str, *arguments: object, crash_at: str = "") -> subprocess.Popen[bytes]:
    """Start a Python process with *script*."""
    environment = {"SPARKD_CRASH_AT": crash_at, "PYTHONPATH": str(REPOSITORY), "PATH": ""}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
