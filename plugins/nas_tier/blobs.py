"""Large values, wherever one is: in the spool or in a tier; brought where one is missing, and healed where damaged."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

import anyio

from sparkd import MAX_INLINE_BYTES, CallError, CallErrorKind, MemoryRecord

from .figures import Counts, Figures
from .places import NO_ANSWER, Place, Places
from .spool import Spool

BYTES_PER_S = 256 * 1024
"""A tier has the time that a value takes at that pace, besides its limit: a slow home upload."""
HURT_MOST = 10_000


class Blobs:
    """Reads and brings large values."""

    def __init__(
        self, places: Places, spool: Spool, *, figures: Figures, counts: Counts, now_ms: Callable[[], int]
    ) -> None:
        """Look in *spool* first, then in *places*, nearest first."""
        self._places = places
        self._spool = spool
        self._figures = figures
        self._counts = counts
        self.now_ms = now_ms
        self.hurt: deque[tuple[Place, MemoryRecord]] = deque(maxlen=HURT_MOST)
        """Values that were found damaged, and where: to be healed."""
        self.hurts = anyio.Event()
        """Set when there is one more; then a new one stands here."""

    async def bring(self, place: Place, record: MemoryRecord) -> None:
        """See to it that *place* has the value of *record*. Raises CallError."""
        digest = record.digest
        if not await place.ask("has", lambda tier: tier.has(digest=digest)):
            await self._send(place, record)

    async def _send(self, place: Place, record: MemoryRecord) -> None:
        limit_s = place.limit_s + record.size / BYTES_PER_S
        chunks = self.read(record, but=place)
        await place.ask(
            "write", lambda tier: tier.write(digest=record.digest, size=record.size, chunks=chunks), limit_s=limit_s
        )

    async def whole(self, record: MemoryRecord, *, first: Place | None = None) -> bytes:
        """Return the value of *record*. Raises CallError: `too-large` if it is more than a call carries."""
        if record.value is not None:
            return record.value
        if record.size > MAX_INLINE_BYTES:
            text = f"the value has {record.size} bytes; `read` streams it"
            raise CallError(CallErrorKind.FAILED, text, error="too-large")
        while True:
            known = len(self.hurt)
            try:
                parts = [chunk async for chunk in self.read(record, first=first)]
            except CallError as error:
                if error.data.get("error") != "damaged" or len(self.hurt) == known:
                    raise
            else:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(
        self,
        record: MemoryRecord,
        *,
        offset: int = 0,
        length: int | None = None,
        first: Place | None = None,
        but: Place | None = None,
    ) -> AsyncIterator[bytes]:
        """Stream the value of *record*, from the nearest that has it.

        Raises CallError: `missing` if nobody has it; what broke off in the midst is not gone on with from another, as
        only who gave all of it can vouch for it.
        """
        if record.value is not None:
            yield record.value[offset : None if length is None else offset + length]
            return
        wanted = record.size - offset if length is None else min(length, record.size - offset)
        if wanted <= 0:
            return
        failures: list[CallError] = []
        for source in self._sources(record, first, but):
            given = 0
            try:
                async for chunk in self._from(source, record, offset, wanted):
                    given += len(chunk)
                    yield chunk
            except CallError as error:
                self._note(source, record, error)
                failures.append(error)
                if given:
                    raise
            if given:
                return
        raise self._nobody(record, failures)

    def _nobody(self, record: MemoryRecord, failures: list[CallError]) -> CallError:
        unsure = [error for error in failures if error.kind in NO_ANSWER]
        if unsure:
            return unsure[0]
        self._counts.damaged += 1
        self._figures.damaged.inc()
        text = f"no tier has a good copy of the value, SHA-256 {record.digest}"
        return CallError(CallErrorKind.FAILED, text, error="missing")

    def _sources(self, record: MemoryRecord, first: Place | None, but: Place | None) -> list[Place | None]:
        hurt = [place for place, other in self.hurt if other.digest == record.digest]
        near = [place for place in self._places.of(record.privacy) if place is not but and place not in hurt]
        near.sort(key=lambda place: (place is not first, place.open, place.level))
        return [None, *near]

    async def _from(self, source: Place | None, record: MemoryRecord, offset: int, length: int) -> AsyncIterator[bytes]:
        digest = record.digest
        if source is None:
            try:
                async for chunk in self._spool.read(digest, offset=offset, length=length):
                    yield chunk
            except OSError as error:
                raise CallError(CallErrorKind.FAILED, f"not in the spool: {error.strerror}", error="missing") from error
        elif source.level > 1 or record.size <= source.largest_bytes:
            until = None if offset == 0 and length == record.size else length
            async for chunk in source.stream(
                "read", lambda tier: tier.read(digest=digest, offset=offset, length=until)
            ):
                yield chunk

    def _note(self, source: Place | None, record: MemoryRecord, error: CallError) -> None:
        what = error.data.get("error")
        if source is not None and (what == "damaged" or (what == "missing" and source.level > 1)):
            self.found_hurt(source, record)

    def found_hurt(self, place: Place, record: MemoryRecord) -> None:
        """Note that *place* has a damaged copy of the value of *record*, or none."""
        if (place.name, record.digest) not in {(other.name, one.digest) for other, one in self.hurt}:
            self.hurt.append((place, record))
        self.hurts.set()
        self.hurts = anyio.Event()

    def give_up(self, place: Place, record: MemoryRecord) -> None:
        """Note that a damaged copy cannot be healed."""
        self.hurt = deque((one for one in self.hurt if (one[0], one[1].digest) != (place, record.digest)), HURT_MOST)

    async def heal(self, place: Place, record: MemoryRecord) -> None:
        """Put a good copy in the place of a damaged or lost one, if *place* holds the key at all.

        Raises CallError if nobody has a good one, or *place* refuses.
        """
        namespace, key = record.namespace, record.key
        named = await place.ask("get", lambda tier: tier.get(namespace=namespace, key=key))
        if named is None:
            self.give_up(place, record)
            return
        await self._send(place, record)  # also where there is one: it is damaged
        self.give_up(place, record)
        self._counts.healed += 1
        self._figures.healed.inc()
