"""The platform's memory: what a service, a script or a person may ask of it. Layer: values.

A value stands in a namespace under a key. Each write has a *version* that orders it among all writes of that key on
all nodes; the newest wins everywhere. A namespace's privacy class says how far its values travel: `node` ones stay on
the machine, `local` ones with the site's nodes and its NAS, `shared` ones reach the cloud.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkd.events import event
from sparkd.interfaces import interface, reads
from sparkd.privacy import Privacy

MAX_INLINE_BYTES = 1 << 20
"""The largest value that `get`, `put`, `cas` and `batch` carry; `read` and `write` stream what is larger."""
MAX_VALUE_BYTES = 1 << 30
MAX_KEY_BYTES = 512
"""Of a key in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHead:
    """What is known of a value, without it. Times are seconds since the epoch, 0 for never."""

    namespace: str
    key: str
    etag: str
    """Names this version: give it to `cas`."""
    size: int
    content_type: str = "application/octet-stream"
    tags: list[str] = field(default_factory=list)
    written_at: float = 0.0
    written_by: str = ""
    """The id of the node that wrote it."""
    soft_expires_at: float = 0.0
    """After that it is served while a fresh one is looked for."""
    expires_at: float = 0.0
    deleted: bool = False
    """Only in `history`: a version that deleted the key."""
    digest: str = ""
    """SHA-256 of the value, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEntry:
    """A value, and where it came from."""

    head: MemoryHead
    value: bytes | None
    """None if it is larger than `MAX_INLINE_BYTES`: then `read` streams it."""
    tier: str
    """The name of the tier that gave it; `journal` for what this node wrote and has not handed on yet."""
    age_s: float
    """Since it was written."""
    stale: bool = False
    """It is past its soft time, or a nearer tier gave it because the one to ask does not answer."""
    reason: str = ""
    """Why it is stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWritten:
    """A write that is safe on this node's disk at least."""

    etag: str
    tiers: list[str] = field(default_factory=list)
    """The tiers that have it already."""
    pending: list[str] = field(default_factory=list)
    """Those that get it when they answer."""
    won: bool = True
    """Whether it is the newest of its key, as far as this node knows; else it is kept as history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPage:
    """A part of a list."""

    heads: list[MemoryHead]
    cursor: str = ""
    """Give it to `list` for what follows; empty at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOperation:
    """One operation of a batch."""

    op: Literal["get", "put", "delete", "touch", "cas"]
    namespace: str
    key: str
    value: bytes = b""
    content_type: str = "application/octet-stream"
    tags: list[str] = field(default_factory=list)
    ttl_s: float | None = None
    soft_ttl_s: float | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOutcome:
    """What became of one operation of a batch: one of the three."""

    entry: MemoryEntry | None = None
    written: MemoryWritten | None = None
    error: str = ""
    """`kind: message`; nothing if it was done. A `get` of what is not there is done, with no entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMatch:
    """Something that was found."""

    head: MemoryHead
    score: float
    """Between 0 and 1; higher is nearer. Only good for comparing within one answer."""
    text: str = ""
    """The piece of text that matched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFound:
    """What a search found, best first."""

    matches: list[MemoryMatch]
    by: list[str] = field(default_factory=list)
    """How it was looked for: `vectors`, `words`."""
    reason: str = ""
    """Why one of them, or a tier, could not be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    """A tier, and how it is."""

    name: str
    kind: str
    level: int
    """1 hot, 2 shared by the site, 3 long."""
    breaker: Literal["closed", "open", "half-open"] = "closed"
    reason: str = ""
    hits: int = 0
    misses: int = 0
    errors: int = 0
    slow: int = 0
    """Calls that had no answer by their deadline."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    records: int | None = None
    bytes: int | None = None
    free_bytes: int | None = None
    behind: int = 0
    """Writes of this node that it has not got yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceStatus:
    """A namespace, and what is in it as far as this node knows."""

    name: str
    privacy: str
    owner: str
    records: int
    bytes: int
    quota_bytes: int = 0
    """0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """How the memory is."""

    tiers: list[TierStatus]
    namespaces: list[NamespaceStatus]
    hits: int = 0
    misses: int = 0
    stale: int = 0
    """Answers that said they are stale."""
    writes: int = 0
    lost_races: int = 0
    """Writes that were older than another of their key; each is kept as history."""
    healed: int = 0
    """Damaged values that were replaced from another tier."""
    damaged: int = 0
    """Damaged values for which no tier had a good copy."""
    resynchronising: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryImported:
    """What an import did."""

    records: int
    newer_here: int
    """Records that were older than what is here: kept as history."""
    bytes: int


@interface("memory")
class Memory(Protocol):
    """Values by namespace and key, in three tiers."""

    @reads
    async def get(self, *, namespace: str, key: str, max_age_s: float | None = None) -> MemoryEntry | None:
        """Return what stands under *key*; None if there is nothing, or it has expired.

        With *max_age_s*, copies that were fetched longer ago are not taken while their home tier answers.
        """
        ...

    @reads
    def read(self, *, namespace: str, key: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream the value, or *length* bytes of it from *offset*; of any size."""
        ...

    async def put(
        self,
        *,
        namespace: str,
        key: str,
        value: bytes,
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
        text: str | None = None,
    ) -> MemoryWritten:
        """Store *value*; answered when it is on disk here, and in its home tier if that answers in time.

        *ttl_s*: it is gone after that; *soft_ttl_s*: it is looked at again after that. None: the namespace's own;
        0: never. *text* is what is searched, by default the value itself where its type is text.
        """
        ...

    async def write(
        self,
        *,
        namespace: str,
        key: str,
        chunks: AsyncIterator[bytes],
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
    ) -> MemoryWritten:
        """Store a value that comes as a stream, up to 1 GiB."""
        ...

    async def delete(self, *, namespace: str, key: str) -> MemoryWritten:
        """Delete what stands under *key*, everywhere; that there was nothing is no error."""
        ...

    @reads
    async def list_(
        self,
        *,
        namespace: str,
        prefix: str = "",
        tags: list[str] | None = None,
        cursor: str = "",
        limit: int = 100,
    ) -> MemoryPage:
        """List what stands in a namespace, by key; with *tags*, only what has them all."""
        ...

    async def touch(
        self, *, namespace: str, key: str, ttl_s: float | None = None, soft_ttl_s: float | None = None
    ) -> MemoryWritten:
        """Give a value another time to live, counted from now."""
        ...

    async def cas(
        self,
        *,
        namespace: str,
        key: str,
        value: bytes,
        etag: str,
        content_type: str = "application/octet-stream",
        tags: list[str] | None = None,
        ttl_s: float | None = None,
        soft_ttl_s: float | None = None,
    ) -> MemoryWritten:
        """Store *value* only if what stands there is the version *etag*; empty: only if nothing stands there.

        Answers `failed` with the error `conflict` and the `etag` there is, if it is another; `unavailable` while the
        namespace's home tier does not answer.
        """
        ...

    async def batch(self, *, operations: list[MemoryOperation]) -> list[MemoryOutcome]:
        """Do several operations, each for itself: one that fails stops no other. Writes share one sync of the disk."""
        ...

    @reads
    async def search(
        self,
        *,
        text: str = "",
        vector: list[float] | None = None,
        namespaces: list[str] | None = None,
        tags: list[str] | None = None,
        content_types: list[str] | None = None,
        limit: int = 10,
    ) -> MemoryFound:
        """Find values by meaning and by words, in *namespaces* (all that the caller may read).

        *vector* is of the model that `embed` has on this node.
        What has expired, is deleted, lacks a tag or may not be read is left out before the best *limit* are taken.
        """
        ...

    @reads
    async def history(self, *, namespace: str, key: str) -> list[MemoryHead]:
        """List the versions that are kept of a key, newest first: the present one, those it replaced, and losers."""
        ...

    @reads
    async def stats(self) -> MemoryStats:
        """Return how the tiers and namespaces are."""
        ...

    async def invalidate(self, *, namespace: str, key: str = "", tag: str = "") -> int:
        """Forget the hot copies of a key, of all with a tag, or of the namespace; return how many there were.

        On all nodes that can be reached. The values stay where they are at home.
        """
        ...

    @reads
    def export(self, *, namespaces: list[str] | None = None) -> AsyncIterator[bytes]:
        """Stream everything as one archive that `import` takes: records, tombstones, values, with checksums."""
        ...

    async def import_(self, *, chunks: AsyncIterator[bytes]) -> MemoryImported:
        """Take an archive. Its records keep their versions, so nothing newer is replaced."""
        ...


@event("system.memory.changed", privacy=Privacy.LOCAL)
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryChanged:
    """Keys have newer versions: whoever holds copies looks again. No value travels with it.

    Keys are hashed (`sparkd.key_digest`), so that an event says nothing to who does not know the key.
    """

    namespace: str
    keys: list[str] = field(default_factory=list)
    """Digests of keys; empty: any key of the namespace."""
    version: str = ""
    """The newest among them."""
    tier: str = ""
    """The tier that has them."""
