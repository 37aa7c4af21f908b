"""Appending to the outbox, synced, against plain SQLite in the same mode and a bare segment file with fdatasync.

All take the same records of 300 bytes on the same disk, in alternating rounds of one run; a ratio is the median of the
rounds' ratios. `writer` is the asynchronous API that services use, `stream` what it runs in its thread.
Run: `python benchmarks/outbox.py [rounds] [--folder DIR]`, or `python benchmarks/outbox.py --drain 1000` for the
memory that a reader process needs to drain a backlog of so many MB. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import anyio

from sparkd import Record
from sparkd.outbox import Limits, open_outbox
from sparkd.outbox.files import Files
from sparkd.outbox.stream import open_stream

BODY = b"x" * 300
SECONDS = 0.4
"""How long one measurement lasts."""
TARGET_A_SECOND = 100_000
TARGET_DRAIN_MB = 60
NODE = "n" * 32

Append = Callable[[int], None]


@contextmanager
def stream(folder: Path) -> Iterator[Append]:
    """Append through the bare stream."""
    with open_stream(Files(folder / "s" / "e"), Limits()) as opened:
        yield lambda count: void(opened.append([Record(topic="edge.sensors", body=BODY) for _ in range(count)], {}))


@contextmanager
def plain_sqlite(folder: Path) -> Iterator[Append]:
    """Append to one table of SQLite in WAL mode with synchronous=FULL, AUTOINCREMENT; no checksum, no rotation."""
    with closing(sqlite3.connect(folder / "plain", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 100")
        db.execute("CREATE TABLE r (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, body BLOB, wall_ns INTEGER)")

        def append(count: int) -> None:
            db.execute("BEGIN IMMEDIATE")
            rows = [("edge.sensors", BODY, time.time_ns()) for _ in range(count)]
            db.executemany("INSERT INTO r (topic, body, wall_ns) VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")

        yield append


@contextmanager
def segment_file(folder: Path) -> Iterator[Append]:
    """Append length, checksum and body to a bare file, then fdatasync."""
    descriptor = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(count: int) -> None:
        parts = [struct.pack("<II", len(BODY), zlib.crc32(BODY)) + BODY for _ in range(count)]
        os.write(descriptor, b"".join(parts))
        os.fdatasync(descriptor)

    try:
        yield append
    finally:
        os.close(descriptor)


def void(_: object) -> None:
    """Forget a result."""


def rate(append: Append, batch: int) -> float:
    """Return records a second."""
    begin, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < SECONDS:
        append(batch)
        count += batch
    return count / taken


async def writer_rate(folder: Path, batch: int) -> float:
    """Return records a second through the asynchronous API, one append after the other."""
    async with open_outbox(folder, node_id=NODE, service="s").writer("w") as writer:
        begin, count = time.perf_counter(), 0
        while (taken := time.perf_counter() - begin) < SECONDS:
            await writer.append([Record(topic="edge.sensors", body=BODY) for _ in range(batch)])
            count += batch
        return count / taken


def measure(folder: Path, rounds: int, batch: int) -> dict[str, object]:
    """Return medians and ratios for one size of batch."""
    rates: dict[str, list[float]] = {"writer": [], "stream": [], "plain_sqlite": [], "segment_file": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as place, ExitStack() as opened:
            root = Path(place)
            rates["writer"].append(anyio.run(writer_rate, root, batch))
            for name, kind in (("stream", stream), ("plain_sqlite", plain_sqlite), ("segment_file", segment_file)):
                rates[name].append(rate(opened.enter_context(kind(root)), batch))
    result: dict[str, object] = {name: round(statistics.median(found)) for name, found in rates.items()}
    for name in ("writer", "stream"):
        for baseline in ("plain_sqlite", "segment_file"):
            ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[baseline], strict=True)]
            result[f"{name}_to_{baseline}"] = round(statistics.median(ratios), 2)
    return result


DRAIN = """
import resource, sys, time
from pathlib import Path
import anyio
from sparkd.outbox import open_outbox

async def main(root):
    count, begin = 0, time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_outbox(Path(root), node_id="n" * 32, service="s").reader("s", "e", name="r") as reader:
        while found := await reader.read(max_records=1000, max_bytes=1 << 20):
            count += len(found)
            await reader.advance(found[-1].seq)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(count, before, peak, time.perf_counter() - begin)

anyio.run(main, sys.argv[1])
"""


def drain(folder: Path, megabytes: int) -> dict[str, object]:
    """Return what a reader process needs to drain a backlog."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        limits = Limits(max_bytes=4 * megabytes << 20)
        records = [Record(topic="edge.sensors", body=BODY) for _ in range(1000)]
        count = megabytes * 1_000_000 // len(BODY) // len(records) * len(records)
        with open_stream(Files(Path(place) / "s" / "e"), limits) as opened:
            for _ in range(count // len(records)):
                opened.append(records, {})
        done = subprocess.run([sys.executable, "-c", DRAIN, place], capture_output=True, check=True, text=True)
    read, before, peak, taken = done.stdout.split()
    return {
        "records": count,
        "read": int(read),
        "records_a_second": round(int(read) / float(taken)),
        "before_mb": round(int(before) / 1024, 1),
        "peak_mb": round(int(peak) / 1024, 1),
        "target_mb": TARGET_DRAIN_MB,
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--drain", type=int, nargs="?", const=100, metavar="MB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    if options.drain:
        print(json.dumps(drain(options.folder, options.drain), indent=1))
        return
    batches = {str(batch): measure(options.folder, options.rounds, batch) for batch in (1, 10, 100)}
    print(json.dumps({"batches": batches, "target_at_100": TARGET_A_SECOND}, indent=1))


if __name__ == "__main__":
    main()
