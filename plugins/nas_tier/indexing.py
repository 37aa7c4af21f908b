"""Keeping this node's search index up to date, behind the answers.

What is written is indexed as it comes, up to a bound. Beyond that, and once at the start, the catalogue is walked for
keys whose newest version the index has not seen. Texts without vectors get theirs when somebody embeds again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import anyio
import anyio.lowlevel

from sparkd import CallError, MemoryRecord

from .catalogue import Catalogue
from .places import Places
from .searching import Searching

WAITING = 256
"""Records that wait to be indexed; a record has up to 64 KiB."""
PAGE = 500
AGAIN_S = 30.0
"""After a tier did not answer on the walk, the rest is looked for so much later."""


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
        self._walk = self._embed = True
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
        self._embed = True
        self._news.set()

    async def run(self) -> None:
        """Index for ever."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._waiting:
                _, record = self._waiting.popitem(last=False)
                await self._searching.note([record])
            if self._walk:
                self._walk = False
                await self._walk_through()
            elif self._embed:
                self._embed = False
                await self._searching.embed_rest()
            if self._walk or self._embed or self._waiting:
                self._news.set()

    async def _walk_through(self) -> None:
        """Index what the index has not seen."""
        after, silent = ("", ""), False
        while heads := await self._catalogue.run(self._catalogue.heads, after, PAGE):
            after = (heads[-1].namespace, heads[-1].key)
            seen = await self._searching.seen(heads)
            for head in heads:
                if seen.get((head.namespace, head.key), "") < head.version:
                    silent |= not await self._index(head)
        if silent:
            await anyio.sleep(AGAIN_S)
            self._walk = True

    async def _index(self, head: MemoryRecord) -> bool:
        """Index the record that *head* is of; False if it cannot be had just now."""
        record: MemoryRecord | None = head
        if not head.deleted:
            record = await self._catalogue.run(self._catalogue.pending, head.namespace, head.key)
            home = self._places.home(head.privacy)
            if record is None and home is not None:
                try:
                    record = await home.ask("get", lambda tier: tier.get(namespace=head.namespace, key=head.key))
                except CallError:
                    return False
        if record is not None and not record.expired(self._now_ms()):
            await self._searching.note([record])
        await anyio.lowlevel.checkpoint()
        return True
