"""Telling other nodes that keys have newer versions, and hearing it of them. No key and no value is told."""

from __future__ import annotations

from typing import Any

import anyio

from sparkd import Context, LinkChanged, MemoryChanged, MemoryRecord, Privacy, key_digest

from .catalogue import Catalogue
from .hot import Hot
from .namespaces import Namespaces
from .places import Place, Places
from .reading import Reading

KEYS_MOST = 500
"""Of one event."""
PAGE = 1000


class Changes:
    """What is told, and what is made of what others tell."""

    def __init__(
        self,
        ctx: Context[Any],
        places: Places,
        *,
        catalogue: Catalogue,
        hot: Hot,
        reading: Reading,
        namespaces: Namespaces,
    ) -> None:
        """Tell over the bus of *ctx*."""
        self._ctx = ctx
        self._places = places
        self._catalogue = catalogue
        self._hot = hot
        self._reading = reading
        self._namespaces = namespaces

    async def arrived(self, place: Place, records: list[MemoryRecord]) -> None:
        """Tell that *place* has *records*, if it is their home."""
        by_namespace: dict[tuple[str, int], list[MemoryRecord]] = {}
        for record in records:
            if self._places.home(record.privacy) is place:
                by_namespace.setdefault((record.namespace, record.privacy), []).append(record)
        for (namespace, privacy), changed in by_namespace.items():
            newest = max(record.version for record in changed)
            keys = [key_digest(namespace, record.key) for record in changed][:KEYS_MOST]
            await self._tell(MemoryChanged(namespace=namespace, keys=keys, version=newest, tier=place.name), privacy)

    async def _tell(self, said: MemoryChanged, privacy: int) -> None:
        if privacy != Privacy.NODE:
            await self._ctx.bus.publish(said, privacy=Privacy(privacy))

    async def invalidate(self, namespace: str, key: str, tag: str) -> int:
        """Forget hot copies here and on all nodes; return how many there were here."""
        privacy = int(self._namespaces.of(namespace).reach)
        keys = [key] if key else []
        if tag:
            keys += await self._catalogue.run(self._catalogue.tagged, namespace, tag)
            if not keys:
                return 0
        count = await self._forget(namespace, keys, privacy)
        for begin in range(0, max(len(keys), 1), KEYS_MOST):
            part = [key_digest(namespace, one) for one in keys[begin : begin + KEYS_MOST]]
            await self._tell(MemoryChanged(namespace=namespace, keys=part), privacy)
        return count

    async def _forget(self, namespace: str, keys: list[str], privacy: int) -> int:
        for key in keys:
            self._reading.forget_nothing(namespace, key)
        if not keys:
            self._reading.forget_all_nothing()
        return await self._hot.drop(namespace, keys, privacy)

    async def hear(self, tell_sync: Any, *, task_status: Any) -> None:
        """Act on what others tell, for ever; *tell_sync* has a tier looked at."""
        async with self._ctx.bus.subscribe(MemoryChanged, limit=10_000) as told:
            task_status.started()
            lost = 0
            async for received in told:
                if told.lost + told.dropped != lost:  # something was missed: all tiers are looked at
                    lost = told.lost + told.dropped
                    tell_sync("")
                if received.header.node == self._ctx.node:
                    continue
                said = received.event
                if said.tier:
                    tell_sync(said.tier)
                await self._forget_digests(said)

    async def follow_links(self, tell_sync: Any) -> None:
        """Have all tiers looked at when a link comes up, for ever: what was told meanwhile, nobody heard."""
        async with self._ctx.bus.subscribe(LinkChanged) as links:
            async for received in links:
                if received.header.node == self._ctx.node and received.event.connected:
                    tell_sync("")

    async def _forget_digests(self, said: MemoryChanged) -> None:
        privacy = int(self._namespaces.of(said.namespace).reach)
        if not said.keys:
            await self._forget(said.namespace, [], privacy)
            return
        wanted, found = set(said.keys), []
        after = (said.namespace, "")
        while wanted and (heads := await self._catalogue.run(self._catalogue.heads, after, PAGE)):
            after = (heads[-1].namespace, heads[-1].key)
            for head in heads:
                digest = key_digest(head.namespace, head.key)
                if head.namespace == said.namespace and digest in wanted:
                    wanted.discard(digest)
                    found.append(head.key)
            if heads[-1].namespace != said.namespace:
                break
            await anyio.lowlevel.checkpoint()
        self._reading.forget_all_nothing()
        if found:
            await self._hot.drop(said.namespace, found, privacy)
