"""What the long tier asks of a store of records, and what both stores share: what a record must be, and its bytes.

A blob that no record names is removed in two steps, so that none is lost that somebody is about to name:
a sweep *marks* it; a later one, an hour on, *dooms* it if it is still unnamed, deletes the object, and leaves the mark
as *gone*. A put unmarks what it names in its own transaction, and is refused for what is doomed or gone: the blob has
to be written again, and `claim` is what writing asks first.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from sparkd import (
    MAX_RECORD_VALUE,
    CallError,
    CallErrorKind,
    MemoryRecord,
    TierAbout,
    TierChanges,
    TierMatch,
    TierPut,
)

LAYOUT = 1
"""Of the tables. Raise it with any change, and teach both schemas the way from the one before."""
SMALL_VALUE = 4096
"""What comes along in `changes` without being asked for, in bytes."""
PAGE_BYTES = 8 << 20
"""Of one answer of `changes`: it is held in memory here and there."""
LEASE_S = 120.0
"""How long a doomed blob may be on its way out. Twice the longest time a server is given to answer."""
MARK_MS = 3_600_000
"""A blob is unnamed for so long before it goes: between writing it and naming it, and from mark to doom."""
GONE_MS = 86_400_000
"""How long it is known that a blob went: a put that began before is long over."""
MOST_NUMBERS = 16_000
"""Of a vector, as pgvector has it."""
MOST_WORDS = 32
"""Of a question."""
WORDS_TEXT = 100_000
"""Characters of a text that are found by words: PostgreSQL's tsvector ends at 1 MiB."""
DIGEST = re.compile(r"[0-9a-f]{64}")
WORD = re.compile(r"\w+")
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a search asks for."""

    namespaces: list[str]
    text: str
    vector: tuple[float, ...]
    """Of length 1; empty to search by words."""
    model: str
    tags: list[str]
    content_types: list[str]
    now_ms: int
    limit: int


class RecordStore(Protocol):
    """Keeps records. Fails with UNAVAILABLE if it does not answer."""

    async def about(self) -> TierAbout:
        """Say how it is."""
        ...

    async def get(self, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key."""
        ...

    async def put(self, record: MemoryRecord, *, etag: str | None = None) -> TierPut:
        """Keep *record* as the tier's `put` does, or as its `cas` if there is an *etag*.

        Fails with the error `missing` if the blob it names has been removed.
        """
        ...

    async def history(self, namespace: str, key: str) -> list[MemoryRecord]:
        """Return what is kept of a key, newest first."""
        ...

    async def changes(self, cursor: str, *, limit: int, whole: bool) -> TierChanges:
        """Return what changed after *cursor*."""
        ...

    async def search(self, wanted: Wanted) -> list[TierMatch]:
        """Find records."""
        ...


class RecordUpkeep(Protocol):
    """Cleans a store of records. Every step is a transaction, and may be taken by several at once."""

    async def expire(self, now_ms: int) -> int:
        """Make tombstones of what has expired, some at a time; return of how many."""
        ...

    async def trim(self, *, now_ms: int, before: str, most: int) -> int:
        """Remove history: what is older than the version *before*, beyond *most* of a key, or expired."""
        ...

    async def bury(self, before: str) -> int:
        """Remove tombstones older than the version *before*, and raise the floor to the newest of them."""
        ...

    async def mark(self, digests: list[str], *, now_ms: int) -> int:
        """Mark those of *digests* that nothing names; return how many are new."""
        ...

    async def doom(self, *, now_ms: int, most: int) -> list[str]:
        """Return digests whose objects are to be deleted now: marked for an hour, and still unnamed."""
        ...

    async def gone(self, digest: str, *, now_ms: int) -> None:
        """Note that the object is deleted."""
        ...

    async def claim(self, digest: str) -> None:
        """Unmark what is to be written. Fails with UNAVAILABLE while it is being deleted."""
        ...

    async def spot(self, name: str) -> str:
        """Return the place where the last round called *name* ended; empty at the start."""
        ...

    async def set_spot(self, name: str, place: str) -> None:
        """Keep the place for the next round."""
        ...


def check_record(record: MemoryRecord) -> None:
    """Fail with INVALID_PARAMS unless *record* can be kept, and found again as it is."""
    texts = (record.namespace, record.key, record.version, record.content_type, *record.tags)
    try:
        size = sum(len(text.encode()) for text in (*texts, record.text))
    except UnicodeEncodeError:
        raise _invalid("a text holds half a character") from None
    if "\0" in record.namespace or not record.namespace or not record.key:
        raise _invalid("a namespace without NUL, and a key, expected")
    if not record.version.isascii() or not record.version.isprintable() or not record.version:
        raise _invalid("a version of printable ASCII expected")
    if record.value is not None and len(record.value) > MAX_RECORD_VALUE:
        raise _invalid(f"its value has {len(record.value)} bytes, and {MAX_RECORD_VALUE} are the most; write a blob")
    if size > MOST_TEXT:
        raise _invalid(f"its texts have {size} bytes, and {MOST_TEXT} are the most")
    if record.is_blob and not DIGEST.fullmatch(record.digest):
        raise _invalid("a blob's SHA-256 in lower-case hexadecimal expected as its digest")
    for vector in record.vectors:
        if not vector.model or "\0" in vector.model:
            raise _invalid("a vector's model is expected to have a name, without NUL")
        floats(vector.numbers, field="record")


MOST_TEXT = 4 << 20
"""Bytes of a record's texts together: four times the largest value that a call carries."""


def floats(numbers: bytes, *, field: str) -> tuple[float, ...]:
    """Return 32-bit floats as numbers. Fails with INVALID_PARAMS naming *field* if they are no direction."""
    count, rest = divmod(len(numbers), FLOAT_BYTES)
    if rest or not 0 < count <= MOST_NUMBERS:
        raise _invalid(f"1 to {MOST_NUMBERS} floats of 4 bytes expected as a vector, got {len(numbers)} bytes", field)
    values = struct.unpack(f"<{count}f", numbers)
    length = math.hypot(*values)
    if not math.isfinite(length) or not length:
        raise _invalid("a vector with a length expected, got one of zeros or with an infinity", field)
    return values


def unit(values: Sequence[float]) -> tuple[float, ...]:
    """Return *values* at length 1."""
    length = math.hypot(*values)
    return tuple(value / length for value in values)


def words_of(text: str) -> list[str]:
    """Return the words of a question, in small letters, each once."""
    return list(dict.fromkeys(WORD.findall(text.lower())))[:MOST_WORDS]


def head_bytes(record: MemoryRecord) -> bytes:
    """Return *record* without its value, as it is stored."""
    return msgspec.msgpack.encode(msgspec.structs.replace(record, value=None))


def tombstone_bytes(namespace: str, key: str, version: str, body: bytes) -> bytes:
    """Return what an expired record becomes: its version stays, so that nothing older comes back."""
    kept: dict[str, Any] = {}
    with suppress(CallError):
        was = record_from(body)
        kept = {"written_ms": was.written_ms, "privacy": was.privacy}
    return head_bytes(MemoryRecord(namespace=namespace, key=key, version=version, deleted=True, **kept))


def record_from(body: bytes, value: bytes | None = None) -> MemoryRecord:
    """Return a stored record. Fails with the error `damaged` if it is none."""
    try:
        record = msgspec.msgpack.decode(body, type=MemoryRecord)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = f"a stored record of {len(body)} bytes cannot be read"
        raise CallError(CallErrorKind.FAILED, message, error="damaged") from None
    return record if value is None else msgspec.structs.replace(record, value=bytes(value))


def readable(rows: Iterable[tuple[Any, ...]]) -> Iterable[MemoryRecord]:
    """Yield the records of *rows*: one that is damaged must not hide the others."""
    for body, value in rows:
        try:
            yield record_from(body, value)
        except CallError:
            continue


def blob_gone(digest: str) -> CallError:
    """Return the error of a record whose blob is not there."""
    return CallError(
        CallErrorKind.FAILED,
        f"the blob {digest} is not in the tier",
        error="missing",
        remedy="write the blob again, then the record",
    )


def blob_going(digest: str) -> CallError:
    """Return the error of a blob that is being deleted just now."""
    return CallError(
        CallErrorKind.UNAVAILABLE,
        f"the blob {digest} is being deleted, for nothing named it",
        remedy=f"write it again in {LEASE_S:g} seconds at the latest",
    )


def parse_cursor(cursor: str) -> tuple[str, int, int]:
    """Return the tier's ident and the two numbers of *cursor*; all empty for the beginning or what is no cursor."""
    parts = cursor.split(":")
    if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():  # noqa: PLR2004 - as it is written
        numbers = int(parts[1]), int(parts[2])
        if max(numbers) < 1 << 63:
            return parts[0], *numbers
    return "", 0, 0


def _invalid(why: str, field: str = "record") -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, f"{field}: {why}", field=field)
