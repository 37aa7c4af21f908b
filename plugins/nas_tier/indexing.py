"""Keeping this node's search index up to date, behind the answers.

What is written is indexed as it comes, up to a bound. Beyond that, and once at the start, the catalogue is walked for
keys whose newest version the index has not seen. Texts without vectors get theirs when somebody embeds again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import anyio

from sparkd import CallError, MemoryRecord

from .catalogue import Catalogue
from .places import Place, Places
from .searching import Searching

WAITING = 256
"""Records that wait to be indexed; a record has up to 64 KiB."""
PAGE = 500
AGAIN_S = 30.0
"""What a tier did not give on the walk is looked for when it answers again, or so much later."""


class Indexing:
    """Indexes what was written here and what came from tiers."""

    def __init__(
        self, searching: Searching, places: Places, *, catalogue: Catalogue, now_ms: Callable[[], int]
    ) -> None:
        """Bring the index of *searching* up to date."""
        self._searching = searching
        self._places = places
        self._catalogue = catalogue
        self._now_ms = now_ms
        self._waiting: OrderedDict[tuple[str, str], MemoryRecord] = OrderedDict()
        self._walk = True
        self._lacking: int | None = 0
        """Where texts without vectors are looked for next; None if nobody embeds, or all have some."""
        self._news = anyio.Event()
        self._news.set()

    def note(self, record: MemoryRecord) -> None:
        """Index *record* soon."""
        name = (record.namespace, record.key)
        known = self._waiting.get(name)
        if known is None and len(self._waiting) >= WAITING:
            self._walk = True
        elif known is None or known.version < record.version:
            self._waiting[name] = record
        self._news.set()

    def embeds_again(self) -> None:
        """Learn that vectors can be had again."""
        self._lacking = 0
        self._news.set()

    async def run(self) -> None:
        """Index for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                await self._take()
                if self._walk:
                    self._walk = False
                    for place in await self._walk_through():
                        tasks.start_soon(self._walk_when_well, place)
                if self._lacking is not None:
                    self._lacking = await self._searching.embed_some(self._lacking)
                if self._walk or self._waiting or self._lacking is not None:
                    self._news.set()

    async def _take(self) -> None:
        while self._waiting:
            _, record = self._waiting.popitem(last=False)
            await self._searching.note([record])

    async def _walk_when_well(self, place: Place) -> None:
        with anyio.move_on_after(AGAIN_S):
            await place.well.wait()
        self._walk = True
        self._news.set()

    async def _walk_through(self) -> list[Place]:
        """Index what was not noted yet; return the tiers that did not answer."""
        after, silent = ("", ""), list[Place]()
        while heads := await self._catalogue.run(self._catalogue.heads, after, PAGE):
            after = (heads[-1].namespace, heads[-1].key)
            noted = await self._searching.noted(heads)
            for head in heads:
                home = self._places.home(head.privacy)
                if noted.get((head.namespace, head.key), "") < head.version and home not in silent:
                    try:
                        await self._index(head, home)
                    except CallError:
                        silent += [home] if home is not None else []
            await self._take()
        return silent

    async def _index(self, head: MemoryRecord, home: Place | None) -> None:
        """Index the record that *head* is of. Raises CallError if its home does not give it."""
        record: MemoryRecord | None = head
        if not head.deleted:
            record = await self._catalogue.run(self._catalogue.pending, head.namespace, head.key)
            if record is None and home is not None:
                record = await home.ask("get", lambda tier: tier.get(namespace=head.namespace, key=head.key))
        if record is not None and not record.expired(self._now_ms()):
            await self._searching.note([record])
