"""The hot tier, and filling nearer tiers with what was found in farther ones, behind the answer.

A copy in the hot tier must never outlive what it is a copy of by more than it has to: where a newer version could not
be put there, or an old one not be dropped, that is owed, and the hot tier is not asked for that key until it is paid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from sparkd import MAX_RECORD_VALUE, CallError, MemoryRecord, Tier

from .blobs import Blobs
from .catalogue import Catalogue
from .key_set import KeySet
from .places import NO_ANSWER, Place, Places

WORKERS, QUEUE = 4, 256
ONCE_MOST = 10_000
"""Large values that were asked for once; at the second time they are let in."""
Deed = Callable[[], Awaitable[object]]


class Hot:
    """Copies near at hand."""

    def __init__(self, places: Places, blobs: Blobs, catalogue: Catalogue, now_ms: Callable[[], int]) -> None:
        """Keep copies in the nearest of *places*."""
        self._places = places
        self._blobs = blobs
        self._catalogue = catalogue
        self._now_ms = now_ms
        self._owed = KeySet()
        self._owing = anyio.Event()
        self._once: OrderedDict[str, None] = OrderedDict()
        self._send, receive = anyio.create_memory_object_stream[Deed](QUEUE)
        self._receive: MemoryObjectReceiveStream[Deed] = receive
        self.skipped = 0
        """Deeds that were left, as too many waited: none of them is needed for an answer to be right."""

    def place(self, privacy: int) -> Place | None:
        """Return the hot tier for what is of that class."""
        return self._places.hot(privacy)

    async def get(self, namespace: str, key: str, privacy: int) -> MemoryRecord | None:
        """Return the copy of a key, a tombstone too; None if there is none that may be taken."""
        place = self._places.hot(privacy)
        if place is None or self._owed.may_have(namespace, key):
            return None
        try:
            record = await place.ask("get", lambda tier: tier.get(namespace=namespace, key=key))
        except CallError:
            return None
        place.hit(found=record is not None)
        if record is not None and record.expired(self._now_ms()):
            return None
        return record

    async def put(self, record: MemoryRecord) -> None:
        """Put a version there that was just written, or owe that. Never raises CallError."""
        place = self._places.hot(record.privacy)
        if place is None:
            return
        with anyio.CancelScope(shield=True):  # bounded by the tier's limit
            try:
                await place.ask("put", lambda tier: tier.put(record=record))
            except CallError:
                self._owe([(record.namespace, record.key)])

    async def drop(self, namespace: str, keys: list[str], privacy: int) -> int:
        """Forget copies of *keys*, or of the namespace if there are none; return how many there were, or owe that."""
        place = self._places.hot(privacy)
        if place is None:
            return 0
        count = 0
        with anyio.CancelScope(shield=True):
            try:
                count = await place.ask("drop", lambda tier: tier.drop(namespace=namespace, keys=keys), limit_s=5.0)
            except CallError:
                self._owe([(namespace, key) for key in keys] or None)
        return count

    def _owe(self, keys: list[tuple[str, str]] | None) -> None:
        if keys is None:
            self._owed.begin(None)
        else:
            self._owed.add(keys)
        self._owing.set()

    def later(self, deed: Deed) -> None:
        """Do *deed* behind the answer, unless too much waits already."""
        try:
            self._send.send_nowait(deed)
        except anyio.WouldBlock:
            self.skipped += 1

    def fill(self, record: MemoryRecord, source: Place) -> None:
        """Put a copy of what *source* gave into nearer tiers."""
        nearer = [place for place in self._places.of(record.privacy) if place.level < source.level]
        if nearer:
            self.later(lambda: self._fill(record, nearer))

    async def _fill(self, record: MemoryRecord, nearer: list[Place]) -> None:
        for place in nearer:
            if place.level == 1 and not self._admits(place, record):
                continue
            if record.is_blob and (place.level > 1 or record.size <= place.largest_bytes):
                await self._blobs.bring(place, record)
            await place.ask("put", lambda tier: tier.put(record=record))
            if place.level == 1:
                known = await self._catalogue.run(self._catalogue.head, record.namespace, record.key)
                if known is not None and known.version > record.version:  # it became old on its way
                    await self.drop(record.namespace, [record.key], record.privacy)

    def _admits(self, place: Place, record: MemoryRecord) -> bool:
        """Small values at once, large ones when they are asked for a second time, too large ones never."""
        if record.size <= MAX_RECORD_VALUE:
            return True
        if record.size > place.largest_bytes:
            return False
        if record.digest in self._once:
            del self._once[record.digest]
            return True
        self._once[record.digest] = None
        while len(self._once) > ONCE_MOST:
            self._once.popitem(last=False)
        return False

    def close(self) -> None:
        """Take nothing more, and forget what was to be done."""
        self._send.close()
        self._receive.close()

    async def run(self) -> None:
        """Work off what is to be done behind answers, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pay)
            for _ in range(WORKERS):
                tasks.start_soon(self._work)

    async def _work(self) -> None:
        async for deed in self._receive:
            try:
                await deed()
            except CallError:
                continue  # it was counted where it failed, and nobody waits for it

    async def _pay(self) -> None:
        """Drop what is owed as soon as the hot tier answers again."""
        while True:
            await self._owing.wait()
            self._owing = anyio.Event()
            for place in self._places.all:
                if place.level == 1:
                    await self._pay_to(place)

    async def _pay_to(self, place: Place) -> None:
        while (owed := self._owed.held()) != []:
            try:
                if owed is None:
                    await place.ask("drop", lambda tier: tier.drop(namespace="", keys=[]), limit_s=30.0)
                    self._owed.begin([])
                    continue
                for namespace, key in owed[:500]:
                    await place.ask("drop", partial(_drop, namespace=namespace, key=key))
                    self._owed.remove([(namespace, key)])
            except CallError as error:
                if error.kind not in NO_ANSWER:
                    return
                with anyio.move_on_after(max(place.breaker.opens_at(anyio.current_time()) - anyio.current_time(), 0.1)):
                    await place.well.wait()


async def _drop(tier: Tier, *, namespace: str, key: str) -> int:
    return await tier.drop(namespace=namespace, keys=[key])
