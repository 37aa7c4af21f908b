"""A tier of the memory: the contract that a drop-in fulfils to be one. Layer: values.

A tier keeps *records* by namespace and key, the newest version of each (with those it replaced as history), and
*blobs* by the SHA-256 of their content. It decides nothing: who may read, what expires and what goes where is decided
by `nas-tier`, which calls it. Every method is idempotent, so that a call whose answer was lost is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from sparkd.interfaces import interface, reads

MAX_RECORD_VALUE = 64 * 1024
"""A larger value is a blob of its own, and its record names it."""
CHUNK_BYTES = 256 * 1024
"""Of a blob's stream."""


class MemoryRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One version of a key. Times are milliseconds since the epoch, 0 for never."""

    namespace: str
    key: str
    version: str
    """Sorts as text: 12 hexadecimal digits of milliseconds, 4 of a counter, `-`, the id of the node that wrote it."""
    deleted: bool = False
    """A tombstone."""
    value: bytes | None = None
    """None for a tombstone, and where *digest* names a blob."""
    digest: str = ""
    """SHA-256 of the value, hexadecimal, of small values too."""
    size: int = 0
    content_type: str = "application/octet-stream"
    tags: list[str] = []
    written_ms: int = 0
    soft_ms: int = 0
    hard_ms: int = 0
    privacy: int = 1
    """See `Privacy`. A tier beyond its reach never gets it, and refuses it if it does."""
    text: str = ""
    """What is searched."""
    vectors: list[MemoryVector] = []

    @property
    def is_blob(self) -> bool:
        """Whether the value stands apart."""
        return not self.deleted and self.value is None

    def expired(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return 0 < self.hard_ms <= now_ms


class MemoryVector(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The meaning of a piece of the text."""

    model: str
    """Vectors of different models are never compared."""
    begin: int
    end: int
    """The piece: characters of the text."""
    numbers: bytes
    """32-bit floats, little-endian, of length 1 together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPut:
    """What became of a record that was offered."""

    outcome: Literal["stored", "same", "older", "floor"]
    """`same`: it was there. `older`: it is kept as history, beneath *winner*. `floor`: as `older`, but because it is
    older than the tombstones that were swept, so nobody can say whether the key was deleted since."""
    winner: str
    """The newest version of the key now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierChanges:
    """Some of what changed, oldest first where the tier can tell."""

    records: list[MemoryRecord]
    """Without values larger than a few KiB where *whole* was not asked: `get` has them."""
    cursor: str
    """Give it to the next call."""
    more: bool = False
    """Whether there is more right now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierAbout:
    """What a tier says of itself."""

    ident: str
    """Made when the tier was laid out: another one means that it was emptied or replaced."""
    kind: str
    floor: str = ""
    """The newest version whose tombstone may have been swept; empty if none was."""
    records: int | None = None
    bytes: int | None = None
    free_bytes: int | None = None
    """None where nobody can say."""
    writable: bool = True
    reason: str = ""
    """What is wrong with it, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierMatch:
    """A record that a search found."""

    record: MemoryRecord
    """Without its value."""
    score: float
    """Cosine of the vectors, or rank of the words; higher is better."""
    begin: int = 0
    end: int = 0
    """The piece of the text that matched; 0 to 0 for all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSwept:
    """What a round of sweeping did."""

    records: int = 0
    history: int = 0
    tombstones: int = 0
    blobs: int = 0
    bytes: int = 0
    checked: int = 0
    """Blobs whose checksum was compared."""
    damaged: list[str] = field(default_factory=list)
    """Digests of blobs that are not what they should be: set aside, so that `write` brings them back."""
    damaged_records: int = 0
    """Record files that were set aside."""


@interface("tier")
class Tier(Protocol):
    """Keeps records and blobs."""

    @reads
    async def about(self) -> TierAbout:
        """Say how it is. Answers also when it cannot be written to."""
        ...

    @reads
    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Return the newest record of a key, a tombstone too; None if it has none."""
        ...

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Keep *record* if it is the newest of its key; else keep it as history. On disk when it is answered.

        The blob that it names was written before.
        """
        ...

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Keep *record* only if the newest version of its key is *etag* (empty: there is none, or a tombstone).

        Else nothing is kept, and the outcome is `older` with the winner. Atomic among all who use the tier.
        """
        ...

    @reads
    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """Return the versions it keeps of a key, newest first, the present one among them."""
        ...

    @reads
    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """Return records that changed after *cursor* (empty: all it has); one may come more than once.

        With *whole*, each comes with its value as `get` would give it.
        """
        ...

    @reads
    async def has(self, *, digest: str) -> bool:
        """Whether it has a blob."""
        ...

    @reads
    def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob. Fails with the error `missing` if it has none, `damaged` if a whole one is not its digest."""
        ...

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob. Refused, and nothing stored, unless it has *size* bytes and this digest.

        One that `read` found damaged is replaced; another one need not be stored again.
        """
        ...

    @reads
    async def search(
        self,
        *,
        namespaces: list[str],
        text: str = "",
        vector: bytes = b"",
        model: str = "",
        tags: list[str],
        content_types: list[str],
        now_ms: int,
        limit: int = 10,
    ) -> list[TierMatch]:
        """Find records by words or, if *vector* (32-bit floats) is given, by the vectors of *model*.

        A tier that cannot search answers `unknown-method`.
        """
        ...

    async def drop(self, *, namespace: str, keys: list[str]) -> int:
        """Forget the copies of *keys*, or of the whole namespace if there are none; return how many it had.

        Only tiers of level 1 do; others answer 0, for they hold what is at home there.
        """
        ...

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Remove what has expired, old history, tombstones and blobs that nothing names; check *scrub* blobs.

        *tombstones_before* and *history_before* are versions. May be killed at any time, and run by several at once.
        """
        ...


def digest_of(value: bytes) -> str:
    """Return the SHA-256 of *value*, hexadecimal."""
    return hashlib.sha256(value).hexdigest()


def key_digest(namespace: str, key: str) -> str:
    """Return what a key is called where it may not be read: 32 hexadecimal digits of SHA-256."""
    return hashlib.sha256(f"{namespace}\0{key}".encode()).hexdigest()[:32]
