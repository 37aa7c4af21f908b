"""A round of cleaning the long tier. Each step stands alone: killed between two, the next round goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio

from sparkd import CallError, CallErrorKind, TierSwept

from .objects_checked import Objects, checked_out
from .record_store import LEASE_S, MARK_MS, RecordUpkeep

LISTED = 10_000
"""Blobs a round that are looked at for a name: ten questions to S3."""
ASKED = 500
"""Digests in one question to the records."""
DOOMED = 200
"""Blobs a round that are deleted at the most."""
PARTIAL_MS = 86_400_000
"""A writer that has not ended after a day was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOrder:
    """What is old. As the tier's `sweep` is asked."""

    now_ms: int
    tombstones_before: str
    history_before: str
    history_most: int
    scrub: int


@dataclass(slots=True, kw_only=True)
class _Scrubbed:
    checked: int = 0
    damaged: list[str] = field(default_factory=list)


async def sweep_long(upkeep: RecordUpkeep, objects: Objects, order: SweepOrder) -> TierSwept:
    """Clean once. Fails with UNAVAILABLE at the first server that does not answer; what was done stays done."""
    now_ms = order.now_ms
    records = await _until_none(lambda: upkeep.expire(now_ms))
    history = await upkeep.trim(now_ms=now_ms, before=order.history_before, most=order.history_most)
    tombstones = await _until_none(lambda: upkeep.bury(order.tombstones_before))
    blobs, freed = await _delete_doomed(upkeep, objects, now_ms)
    await _mark_unnamed(upkeep, objects, now_ms)
    scrubbed = await _scrub(upkeep, objects, order.scrub)
    await objects.tidy(before_ms=now_ms - PARTIAL_MS)
    return TierSwept(
        records=records,
        history=history,
        tombstones=tombstones,
        blobs=blobs,
        bytes=freed,
        checked=scrubbed.checked,
        damaged=scrubbed.damaged,
    )


async def _until_none(step: Callable[[], Awaitable[int]]) -> int:
    total = 0
    while count := await step():
        total += count
    return total


async def _delete_doomed(upkeep: RecordUpkeep, objects: Objects, now_ms: int) -> tuple[int, int]:
    """Delete blobs that were marked in an earlier round and are unnamed still; return how many, and their bytes."""
    count = freed = 0
    digests = await upkeep.doom(now_ms=now_ms, most=DOOMED)
    # After the lease somebody may write the blob anew, so no deletion may begin when much of it is over.
    latest = anyio.current_time() + LEASE_S / 4
    for digest in digests:
        if anyio.current_time() > latest:
            break  # a round after the lease takes up what is left
        size = await objects.size(digest)
        if size is not None:
            await objects.delete(digest)
            count, freed = count + 1, freed + size
        await upkeep.gone(digest, now_ms=now_ms)
    return count, freed


async def _mark_unnamed(upkeep: RecordUpkeep, objects: Objects, now_ms: int) -> None:
    seen, asked, place = 0, list[str](), await upkeep.spot("unnamed")
    async with aclosing(_listed(objects, place)) as listed:  # type: ignore[type-var] # a generator
        place = ""
        async for digest, modified_ms in listed:
            seen += 1
            if modified_ms < now_ms - MARK_MS:
                asked.append(digest)
            if len(asked) == ASKED:
                await upkeep.mark(asked, now_ms=now_ms)
                asked = []
            if seen == LISTED:
                place = digest
                break
    if asked:
        await upkeep.mark(asked, now_ms=now_ms)
    await upkeep.set_spot("unnamed", place)


async def _scrub(upkeep: RecordUpkeep, objects: Objects, most: int) -> _Scrubbed:
    """Read some blobs whole and set aside those that are not their digest; the next round goes on behind them."""
    done = _Scrubbed()
    if most <= 0:
        return done
    place = await upkeep.spot("scrub")
    async with aclosing(_listed(objects, place)) as listed:  # type: ignore[type-var] # a generator
        place = ""
        async for digest, _ in listed:
            if not await _is_whole(objects, digest):
                await objects.set_aside(digest)
                done.damaged.append(digest)
            done.checked += 1
            if done.checked >= most:
                place = digest
                break
    await upkeep.set_spot("scrub", place)
    return done


async def _listed(objects: Objects, after: str) -> AsyncIterator[tuple[str, int]]:
    async for seen in objects.listed(after):
        yield seen.digest, seen.modified_ms


async def _is_whole(objects: Objects, digest: str) -> bool:
    try:
        async with aclosing(checked_out(digest, objects.stream(digest, offset=0, length=None))) as chunks:  # type: ignore[type-var] # a generator
            async for _ in chunks:
                pass
    except CallError as error:
        if error.kind is not CallErrorKind.FAILED:
            raise
        return error.data.get("error") != "damaged"  # deleted meanwhile is no damage
    return True
