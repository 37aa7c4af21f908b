"""What is recorded of a service, and how a sample is written down: values and bytes, no file.

A sample is one look at everything: a row for the core, one for the zygote and one for each service. Counters hold what
was added since the look before, so a sample stands for itself and a hole between two is only a hole. Columns are
append-only: a row written by an older sparkd is shorter, and what it lacks is 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

from sparkd.errors import RemoteMessageError

GAUGES = ("rss", "pss", "threads", "fds", "processes", "answer_us")
COUNTERS = (
    "cpu_us",
    "read",
    "write",
    "link",
    "tcp",
    "published",
    "published_bytes",
    "received",
    "lost",
    "switches",
    "preempted",
    "major_faults",
    "restarts",
)
COLUMNS = (*GAUGES, *COUNTERS)
"""Bytes and counts. `pss` and `answer_us` are looked at less often, and hold their last value meanwhile."""
MEANING = {
    "rss": "resident memory, bytes: of its processes together, so shared pages count more than once",
    "pss": "proportional memory, bytes: shared pages are shared out; looked at each minute",
    "threads": "threads of its processes",
    "fds": "open file descriptors of its processes",
    "processes": "processes: its own and those beneath it",
    "answer_us": "microseconds its event loop took to answer the core; asked every 10 s",
    "cpu_us": "microseconds of processor time",
    "read": "bytes read from storage: what the page cache gave is not in it",
    "write": "bytes written to storage, in whole pages (/proc/PID/io write_bytes)",
    "link": "bytes sent to other nodes over the link for it: events and calls",
    "tcp": "bytes other machines have acknowledged on TCP connections of its processes",
    "published": "events it published on the bus",
    "published_bytes": "bytes of their bodies",
    "received": "events it got from the bus",
    "lost": "events it should have got, and did not",
    "switches": "times its main thread gave up the processor",
    "preempted": "times its main thread lost the processor",
    "major_faults": "pages that had to be fetched from storage",
    "restarts": "runs of it that ended",
}
MAX_NAME_CHARS = 100
_MASK = (1 << 63) - 1


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One service at one moment. *values* are in the order of `COLUMNS`."""

    name: str
    state: str
    values: list[int]

    def value(self, column: str) -> int:
        """Return the value of *column*; 0 if this row was written before it was thought of."""
        at = _INDEX[column]
        return self.values[at] if at < len(self.values) else 0


class Sample(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Everything at one moment."""

    boot_ns: int
    """Since the machine's boot, also while it slept (CLOCK_BOOTTIME): what order and distance go by."""
    wall_ns: int
    """The wall clock, for display only."""
    span_ms: int
    """Since the look before; 0 for the first of a run."""
    rows: list[Row]


_INDEX = {name: at for at, name in enumerate(COLUMNS)}
_decode_sample = msgspec.msgpack.Decoder(Sample).decode
MAX_PAYLOAD_BYTES = 4 << 20


def row(name: str, state: str, **values: int) -> Row:
    """Return a row; columns that are not given are 0."""
    return Row(name[:MAX_NAME_CHARS], state, [min(max(values.get(c, 0), 0), _MASK) for c in COLUMNS])


def pack(value: Any) -> bytes:
    """Return *value* as bytes, small."""
    return zlib.compress(msgspec.msgpack.encode(value), 1)


def unpack(content: bytes | memoryview) -> bytes:
    """Return what `pack` encoded, still MessagePack. Raises RemoteMessageError; a bomb is not unpacked."""
    unzip = zlib.decompressobj()
    try:
        plain = unzip.decompress(content, MAX_PAYLOAD_BYTES)
    except zlib.error as error:
        raise RemoteMessageError(f"not a record of the flight recorder: {error}") from None
    if not unzip.eof:
        raise RemoteMessageError("not a record of the flight recorder: it has no end")
    return plain


def sample_of(content: bytes | memoryview) -> Sample:
    """Return the sample that `pack` encoded. Raises RemoteMessageError."""
    try:
        return _decode_sample(unpack(content))
    except msgspec.MsgspecError as error:
        raise RemoteMessageError(f"not a sample: {error}") from None


def total(rows: Sequence[Row], column: str) -> int:
    """Return the sum of *column* over *rows*."""
    return sum(row.value(column) for row in rows)
