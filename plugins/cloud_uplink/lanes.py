"""Ship one stream of the outbox: in order, and past its own history when there is much of it.

A stream has a main lane. It reads from the durable cursor, sends, and moves the cursor once the receipt is there. When
it is several batches behind, a live lane opens at the stream's end, so that a fresh record goes out at once. The live
lane has no cursor on disk and needs none: the receiver keeps which ranges it has, the main lane works through what lies
between, and where it meets the live lane it leaps over it. After a crash in between, history is sent up to the range
that an earlier live lane has delivered; the receipt says so, and the main lane leaps over that as well.

What is read is sent before anything else is read, and only while holding a turn: memory holds a batch a turn. Numbers
without a record (expired, evicted, damaged) are passed like the others. That there are no more records up to the tail
is known only when the tail was asked for before reading.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sparkd import (
    BatchReceipt,
    CallError,
    Context,
    Ingest,
    LocalMessageError,
    OutboxReader,
    RemoteMessageError,
    StorageError,
    Stored,
    reached,
    strictest,
)

from .figures import Figures
from .policy import Batch, Rules, Verdict, behind, next_limit, retry_delay_s, sort_out, verdict
from .reach import Reach
from .settings import CloudUplinkConfig
from .thrift import Thrift
from .turns import Turns

Failure = CallError | LocalMessageError | RemoteMessageError | StorageError


@dataclass(slots=True)
class Lane:
    """How far one lane of a stream has come."""

    start: int
    after: int
    """Everything the lane has passed is settled up to here: acknowledged, withheld or put aside."""
    told: int
    """What the receiver was last told to have, in one range with what comes next."""
    limit: int
    buried: set[int] = field(default_factory=set)
    """What of the next batch is put aside already: if it is tried again, that is not done again."""
    history: bool = False
    failures: int = 0
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """What all streams share on their way to the target."""

    ctx: Context[CloudUplinkConfig]
    rules: Rules
    turns: Turns
    reach: Reach
    thrift: Thrift
    figures: Figures


class StreamShipper:
    """Ships one stream until cancelled."""

    def __init__(self, road: Road, reader: OutboxReader) -> None:
        """Ship what *reader* reads along *road*."""
        self._road = road
        self._config = road.ctx.config
        self._reader = reader
        self._label = f"{reader.stream_id.service}/{reader.stream_id.stream}"
        self._priority = 0
        self._tail = 0
        position = reader.position
        self._main = Lane(position, position, position, self._config.max_batch_records)
        self._live: Lane | None = None

    async def run(self) -> None:
        """Ship for ever."""
        async with anyio.create_task_group() as lanes:
            while True:
                count = await self._step(self._main)
                if not count:
                    self._road.figures.backlog.labels(self._label).set(0)
                    self._road.figures.oldest_age.labels(self._label).set(0)
                    await self._reader.wait(after=self._main.after)
                else:
                    await self._look_around(count, lanes)

    async def _look_around(self, count: int, lanes: TaskGroup) -> None:
        """After a batch of *count* on the main lane: open the live lane, or join it if it is reached."""
        tail, live = self._tail, self._live
        self._road.figures.backlog.labels(self._label).set(max(0, tail - self._main.after))
        if live is None and behind(tail=tail, through=self._main.after, batch=count):
            self._live = Lane(tail, tail, tail, self._config.max_batch_records)
            self._main.history = True
            lanes.start_soon(self._run_live, self._live)
        elif live is not None and self._main.after >= live.start:
            live.scope.cancel()
            self._live, self._main.history = None, False
            if live.after > self._main.after:
                with suppress(StorageError):  # then what the live lane has sent is sent again, to no effect
                    await self._pass(self._main, live.after)

    async def _run_live(self, lane: Lane) -> None:
        with lane.scope:
            while True:
                if not await self._step(lane):
                    await self._reader.wait(after=lane.after)

    async def _step(self, lane: Lane) -> int:
        """Ship the next batch of *lane*, however often it takes; return how many records it was, 0 for none."""
        while True:
            try:
                return await self._attempt(lane)
            except (CallError, LocalMessageError, RemoteMessageError, StorageError) as error:
                await self._failed(lane, error)

    async def _attempt(self, lane: Lane) -> int:
        await self._road.reach.ready()
        if lane.history:
            await self._road.thrift.history()
        sent_bytes = 0
        async with self._road.turns.turn(history=lane.history, priority=self._priority):
            # One's own variable: the other lane's later look would let this one pass what came after it had read.
            self._tail = tail = await self._reader.tail()
            read = await self._reader.read(
                max_records=lane.limit, max_bytes=self._config.max_batch_bytes, after=lane.after
            )
            if read:
                sent_bytes = await self._ship(lane, read)
            elif tail > lane.after:
                self._gone(tail - lane.after)
                await self._pass(lane, tail)
        if lane.history and self._config.backfill_rate_bytes_per_s:
            await anyio.sleep(sent_bytes / self._config.backfill_rate_bytes_per_s)
        return len(read)

    async def _ship(self, lane: Lane, read: list[Stored]) -> int:
        batch = sort_out(read, self._road.rules)
        self._note(read)
        absent = read[-1].seq - lane.after - len(read)
        for stored, reason in batch.dead:  # first: the receiver will be told that nothing is missing in this range
            await self._put_aside(lane, stored, reason)
        through, refused = read[-1].seq, dict[int, str]()
        if batch.records:
            receipt = await self._send(lane, batch, through)
            through, refused = self._settled(lane, receipt, through), receipt.refused
            lane.told = through
        for stored in read:
            if stored.seq in refused:
                await self._put_aside(lane, stored, refused[stored.seq])
        await self._pass(lane, through)
        self._gone(absent)
        self._shipped(lane, batch, refused=len(refused))
        return batch.size_bytes

    async def _send(self, lane: Lane, batch: Batch, through: int) -> BatchReceipt:
        config, stream = self._config, self._reader.stream_id
        privacy = strictest(*(record.privacy for record in batch.records))
        target = self._road.ctx.call(Ingest, node=config.target, deadline_s=config.deadline_s, privacy=privacy)
        reached("uplink.before-send")
        receipt = await target.append(
            node_id=stream.node_id,
            service=stream.service,
            stream=stream.stream,
            epoch=stream.epoch,
            records=batch.records,
            after_seq=lane.told,
            through_seq=through,
            floor_seq=self._main.after,
        )
        reached("uplink.after-receipt")
        return receipt

    def _settled(self, lane: Lane, receipt: BatchReceipt, last: int) -> int:
        """Return how far the receipt lets *lane* go. A receiver cannot move it past what was ever written here."""
        through = min(receipt.through_seq, max(self._tail, last))
        if through <= lane.after:
            raise RemoteMessageError(f"{self._config.target} took a batch after {lane.after}, but only has {through}")
        return through

    async def _pass(self, lane: Lane, seq: int) -> None:
        if lane is self._main:
            reached("uplink.before-advance")
            await self._reader.advance(seq)
            lane.told = seq
        lane.after = seq
        lane.buried.clear()

    async def _put_aside(self, lane: Lane, stored: Stored, reason: str) -> None:
        if stored.seq in lane.buried:
            return
        await self._reader.reject(stored, reason)
        lane.buried.add(stored.seq)
        self._road.figures.dead.labels(self._label).inc()
        self._road.ctx.log.warning("dead letter", stream=self._label, seq=stored.seq, reason=reason)

    async def _failed(self, lane: Lane, error: Failure) -> None:
        """Wait, send less, or put the record aside: whatever *error* calls for."""
        kind, alone = verdict(error), lane.limit == 1
        self._road.figures.failures.labels(self._label, kind.value).inc()
        self._road.figures.backlog.labels(self._label).set(max(0, self._tail - self._main.after))
        lane.limit = next_limit(lane.limit, kind, most=self._config.max_batch_records)
        if isinstance(error, CallError | StorageError) and kind is not Verdict.UNACCEPTABLE:
            self._road.reach.failed(error)
        elif alone:
            lane.failures += 1
            try:
                await self._suspect(lane, error)
            except StorageError as full:
                self._road.reach.failed(full)

    async def _suspect(self, lane: Lane, error: Failure) -> None:
        """The next record of *lane* has made its batch fail alone: wait before it is tried again, or give it up."""
        config = self._config
        if lane.failures < config.max_failures:
            delay_s = retry_delay_s(lane.failures, least_s=config.retry_least_s, most_s=config.retry_most_s)
            await anyio.sleep(delay_s)
            return
        reason = f"failed {lane.failures} times: {error}"
        for stored in await self._reader.read(max_records=1, max_bytes=config.max_batch_bytes, after=lane.after):
            await self._put_aside(lane, stored, reason)
            await self._pass(lane, stored.seq)
        lane.failures = 0

    def _gone(self, count: int) -> None:
        if count > 0:
            self._road.figures.withheld.labels(self._label, "gone").inc(count)

    def _note(self, read: list[Stored]) -> None:
        self._priority = max(stored.record.priority for stored in read)
        if read[0].record.wall_ns:
            age_s = max(0.0, (time.time_ns() - read[0].record.wall_ns) / 1e9)
            self._road.figures.oldest_age.labels(self._label).set(age_s)

    def _shipped(self, lane: Lane, batch: Batch, *, refused: int) -> None:
        lane.failures = 0
        lane.limit = next_limit(lane.limit, None, most=self._config.max_batch_records)
        figures = self._road.figures
        for reason, count in batch.withheld.items():
            figures.withheld.labels(self._label, reason).inc(count)
        if batch.records:
            self._road.reach.worked()
            figures.records.labels(self._label).inc(len(batch.records) - refused)
            figures.sent_bytes.labels(self._label).inc(batch.size_bytes)
            figures.batches.labels(self._label, "main" if lane is self._main else "live").inc()
