"""A tier that another service is: a drop-in on this node, or the tier that another node provides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sparkd import Context, MemoryRecord, Privacy, Tier, TierAbout, TierChanges, TierMatch, TierPut, TierSwept

STREAM_LIMIT_S = 3600.0
"""Of a call that carries a value; each part of it has the tier's own limit."""
SWEEP_LIMIT_S = 600.0


class CalledTier:
    """Makes each method a call."""

    def __init__(self, ctx: Context[Any], *, node: str | None, service: str, limit_s: float, privacy: Privacy) -> None:
        """Call *service*, on *node* (None: this one), with calls of class *privacy*."""

        def stub(deadline_s: float) -> Tier:
            return ctx.call(Tier, node=node, service=service, deadline_s=deadline_s, privacy=privacy)

        self._short, self._long, self._sweeps = stub(limit_s), stub(STREAM_LIMIT_S), stub(SWEEP_LIMIT_S)

    async def about(self) -> TierAbout:
        """Ask how it is."""
        return await self._short.about()

    async def get(self, *, namespace: str, key: str) -> MemoryRecord | None:
        """Get a record."""
        return await self._short.get(namespace=namespace, key=key)

    async def put(self, *, record: MemoryRecord) -> TierPut:
        """Offer a record."""
        return await self._short.put(record=record)

    async def cas(self, *, record: MemoryRecord, etag: str) -> TierPut:
        """Offer a record on a condition."""
        return await self._short.cas(record=record, etag=etag)

    async def history(self, *, namespace: str, key: str) -> list[MemoryRecord]:
        """List versions."""
        return await self._short.history(namespace=namespace, key=key)

    async def changes(self, *, cursor: str = "", limit: int = 500, whole: bool = False) -> TierChanges:
        """List changes."""
        return await self._short.changes(cursor=cursor, limit=limit, whole=whole)

    async def has(self, *, digest: str) -> bool:
        """Ask for a blob."""
        return await self._short.has(digest=digest)

    def read(self, *, digest: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Stream a blob."""
        return self._long.read(digest=digest, offset=offset, length=length)

    async def write(self, *, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Send a blob."""
        await self._long.write(digest=digest, size=size, chunks=chunks)

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
        return await self._short.search(
            namespaces=namespaces,
            text=text,
            vector=vector,
            model=model,
            tags=tags,
            content_types=content_types,
            now_ms=now_ms,
            limit=limit,
        )

    async def drop(self, *, namespace: str, keys: list[str]) -> int:
        """Have copies forgotten."""
        return await self._short.drop(namespace=namespace, keys=keys)

    async def sweep(
        self, *, now_ms: int, tombstones_before: str, history_before: str, history_most: int, scrub: int
    ) -> TierSwept:
        """Have it swept."""
        return await self._sweeps.sweep(
            now_ms=now_ms,
            tombstones_before=tombstones_before,
            history_before=history_before,
            history_most=history_most,
            scrub=scrub,
        )
