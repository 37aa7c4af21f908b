"""The service: opens what it is made of, in order, and runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from sparkd import Context, Memory, MemoryRecord, Tier, Troubles

from .answers import Answers
from .blobs import Blobs
from .catalogue import Catalogue
from .changes import Changes
from .clock import VersionClock
from .config import NasTierConfig
from .figures import Counts, Figures
from .flights import Flights
from .hot import Hot
from .indexing import Indexing
from .journal import Journal, open_journal
from .keeping import Keeping
from .meaning import Meaning
from .moving import Moving
from .namespaces import NamespaceConfig, Namespaces
from .opening import open_places, provided
from .origin import Origin
from .parts import Parts
from .places import Places
from .pouring import Pouring
from .provided import ProvidedTier
from .reading import Found, Reading
from .search_index import SearchIndex
from .searching import Searching
from .spool import Spool
from .syncing import Syncing
from .writing import Writing


async def serve(ctx: Context[NasTierConfig], *, task_status: TaskStatus[None]) -> None:
    """Serve the memory until cancelled."""
    async with opened(ctx) as memory:
        await ctx.serve(Memory, Answers(memory.parts))
        place = provided(memory.parts.places, ctx.config.provides)
        if place is not None:
            await ctx.serve(Tier, ProvidedTier(place.tier, ctx.node, place.strictest))
        async with anyio.create_task_group() as tasks:
            await memory.start(tasks)
            task_status.started()


@dataclass(slots=True, kw_only=True)
class OpenedMemory:
    """A memory that is open; `start` has it work."""

    ctx: Context[NasTierConfig]
    parts: Parts
    journal: Journal
    syncing: Syncing
    keeping: Keeping

    async def start(self, tasks: TaskGroup) -> None:
        """Begin everything that goes on behind the calls."""
        parts, config = self.parts, self.ctx.config
        await tasks.start(parts.changes.hear, self.syncing.tell)
        tasks.start_soon(parts.changes.follow_links, self.syncing.tell)
        tasks.start_soon(parts.hot.run)
        tasks.start_soon(parts.indexing.run)
        tasks.start_soon(parts.pouring.note_for_ever)
        tasks.start_soon(self.keeping.heal_for_ever)
        for place in parts.places.all:
            if place.level > 1:
                tasks.start_soon(parts.pouring.run, place.name)
                tasks.start_soon(self.syncing.run, place)
                tasks.start_soon(self.keeping.sweep_for_ever, place)
        if config.backup is not None:

            def archive() -> AsyncIterator[bytes]:
                return parts.moving.export(lambda record: record.privacy > 0)

            tasks.start_soon(self.keeping.back_up_for_ever, config.backup, archive)


@asynccontextmanager
async def opened(ctx: Context[NasTierConfig]) -> AsyncIterator[OpenedMemory]:
    """Open the memory: first this node's disk, then the tiers, then what was not finished before."""
    figures, counts, troubles = Figures(ctx.metrics), Counts(), Troubles(ctx)
    folder = ctx.state_dir
    catalogue = await anyio.to_thread.run_sync(Catalogue, folder / "catalogue.sqlite3")
    index = await anyio.to_thread.run_sync(SearchIndex, folder / "search.sqlite3")
    spool = await anyio.to_thread.run_sync(Spool, folder / "spool")
    try:
        if catalogue.set_aside:
            ctx.log.error("the catalogue was damaged and is made anew", set_aside=catalogue.set_aside)
        async with (
            open_journal(ctx.outbox, catalogue, most_bytes=ctx.config.journal_bytes) as journal,
            open_places(ctx, figures, troubles) as places,
            anyio.create_task_group() as flying,
        ):
            await journal.recover()
            await anyio.to_thread.run_sync(spool.tidy, await catalogue.run(catalogue.waiting_blobs))
            made = _Assembly(ctx, catalogue, spool, places, journal, figures, counts, troubles)
            memory = await made.together(flying, index)
            try:
                yield memory
            finally:
                memory.parts.hot.close()
            flying.cancel_scope.cancel()
    finally:
        catalogue.close()
        index.close()


@dataclass(slots=True)
class _Assembly:
    """Puts the parts together."""

    ctx: Context[NasTierConfig]
    catalogue: Catalogue
    spool: Spool
    places: Places
    journal: Journal
    figures: Figures
    counts: Counts
    troubles: Troubles

    async def together(self, flying: TaskGroup, index: SearchIndex) -> OpenedMemory:
        ctx, config = self.ctx, self.ctx.config
        clock = VersionClock(ctx.outbox.node_id, after=self.journal.last_version)
        namespaces = Namespaces(config.namespaces)
        blobs = Blobs(self.places, self.spool, figures=self.figures, counts=self.counts, now_ms=clock.now_ms)
        hot = Hot(self.places, blobs, self.catalogue, clock.now_ms)
        meaning = Meaning(ctx)
        searching = Searching(index, self.catalogue, self.places, meaning)
        indexing = Indexing(searching, self.places, catalogue=self.catalogue, now_ms=clock.now_ms)
        meaning.on_again = indexing.embeds_again

        async def ask_origin(namespace: str, key: str, of: NamespaceConfig) -> MemoryRecord | None:
            return await origin.ask(namespace, key, of)

        async def tell(place: object, records: list[MemoryRecord]) -> None:
            await changes.arrived(place, records)  # type: ignore[arg-type]

        reading = Reading(
            self.places,
            catalogue=self.catalogue,
            hot=hot,
            on_their_way=self.journal.on_their_way,
            flights=Flights[Found](flying),
            figures=self.figures,
            counts=self.counts,
            origin=ask_origin,
            now_ms=clock.now_ms,
        )
        pouring = Pouring(
            self.journal,
            self.places,
            catalogue=self.catalogue,
            spool=self.spool,
            blobs=blobs,
            figures=self.figures,
            counts=self.counts,
            told=tell,
        )
        await pouring.open()
        writing = Writing(
            clock,
            self.journal,
            pouring,
            places=self.places,
            catalogue=self.catalogue,
            spool=self.spool,
            blobs=blobs,
            hot=hot,
            reading=reading,
            figures=self.figures,
            counts=self.counts,
            through_s=config.through_s,
            changed=indexing.note,
        )
        origin = Origin(ctx, self.places, clock, writing)
        changes = Changes(ctx, self.places, catalogue=self.catalogue, hot=hot, reading=reading, namespaces=namespaces)
        moving = Moving(
            self.places,
            node=ctx.node,
            catalogue=self.catalogue,
            blobs=blobs,
            spool=self.spool,
            writing=writing,
            clock=clock,
        )
        syncing = Syncing(
            self.places,
            node_id=ctx.outbox.node_id,
            catalogue=self.catalogue,
            clock=clock,
            hot=hot,
            reading=reading,
            pouring=pouring,
            blobs=blobs,
            index=indexing.note,
            log=ctx.log,
            every_s=config.sync_s,
            away_s=config.away_s,
        )
        await syncing.begin()
        keeping = Keeping(
            config,
            self.places,
            catalogue=self.catalogue,
            clock=clock,
            blobs=blobs,
            searching=searching,
            figures=self.figures,
            counts=self.counts,
            troubles=self.troubles,
            log=ctx.log,
        )
        parts = Parts(
            node=ctx.node,
            config=config,
            namespaces=namespaces,
            places=self.places,
            catalogue=self.catalogue,
            clock=clock,
            spool=self.spool,
            blobs=blobs,
            hot=hot,
            reading=reading,
            pouring=pouring,
            writing=writing,
            searching=searching,
            indexing=indexing,
            meaning=meaning,
            moving=moving,
            changes=changes,
            counts=self.counts,
        )
        return OpenedMemory(ctx=ctx, parts=parts, journal=self.journal, syncing=syncing, keeping=keeping)
