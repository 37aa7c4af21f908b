"""A tier of this node that other nodes use as theirs. What may not travel to them is neither given nor taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from sparkd import (
    CallError,
    CallErrorKind,
    MemoryRecord,
    Privacy,
    Tier,
    TierAbout,
    TierChanges,
    TierMatch,
    TierPut,
    TierSwept,
    current_call,
)

from .clock import DRIFT_MS, ms_of, wall_ms


class ProvidedTier:
    """Hands calls on to *tier*."""

    def __init__(self, tier: Tier, node: str, strictest: Privacy) -> None:
        """Provide *tier* of *node*, which holds what is of the class *strictest* at the strictest."""
        self._tier = tier
        self._node = node
        self._strictest = strictest

    def _may(self, privacy: int) -> bool:
        """Whether what is of that class may go where the call goes: it says how far itself."""
        caller = current_call()
        same_site = caller.privacy is not Privacy.SHARED
        return Privacy(privacy).may_reach(same_node=caller.node in ("", self._node), same_site=same_site)

    def _check(self, record: MemoryRecord) -> MemoryRecord:
        try:
            ahead = ms_of(record.version) - wall_ms()
            known = self._may(record.privacy)
        except ValueError as error:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"record: {error}", field="record") from error
        if not known:
            rule = f"a record of class {Privacy(record.privacy).label} does not travel to {self._node}"
            raise CallError(CallErrorKind.DENIED, "the record is not taken", rule=rule)
        if ahead > DRIFT_MS:
            text = f"record: its version is {ahead / 1000:.0f} s ahead of this node's clock; the limit is 300"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="record", remedy="set the clocks right")
        return record

    async def about(self) -> TierAbout:
        """Say how it is."""
        return await self._tier.about()

    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Return a record."""
        record = await self._tier.get(namespace=namespace, key=key)
        return record if record is not None and self._may(record.privacy) else None

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Take a record."""
        return await self._tier.put(record=self._check(record))

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Take a record on a condition."""
        return await self._tier.cas(record=self._check(record), etag=etag)

    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """List versions."""
        return [one for one in await self._tier.history(namespace=namespace, key=key) if self._may(one.privacy)]

    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """List changes."""
        found = await self._tier.changes(cursor=cursor, limit=min(limit, 500), whole=whole)
        return replace(found, records=[record for record in found.records if self._may(record.privacy)])

    def _check_blobs(self) -> None:
        """A blob does not say what it belongs to: it goes where everything in this tier may go."""
        if not self._may(self._strictest):
            rule = f"the tier holds what is {self._strictest.label}: its blobs do not travel that far"
            raise CallError(CallErrorKind.DENIED, "the blob is not given", rule=rule)

    async def has(self, *, digest: str) -> bool:
        """Whether it has a blob."""
        self._check_blobs()
        return await self._tier.has(digest=digest)

    async def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob."""
        self._check_blobs()
        async for chunk in self._tier.read(digest=digest, offset=offset, length=length):
            yield chunk

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Take a blob."""
        self._check_blobs()
        await self._tier.write(digest=digest, size=size, chunks=chunks)

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
        """Find records."""
        found = await self._tier.search(
            namespaces=namespaces,
            text=text,
            vector=vector,
            model=model,
            tags=tags,
            content_types=content_types,
            now_ms=now_ms,
            limit=min(limit, 1000),
        )
        return [match for match in found if self._may(match.record.privacy)]

    async def drop(self, *, namespace: str, keys: list[str]) -> int:
        """Forget nothing: what is here is at home here."""
        del namespace, keys
        return 0

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Do nothing: this node sweeps its tiers itself, by its own clock."""
        del now_ms, tombstones_before, history_before, history_most, scrub
        return TierSwept()
