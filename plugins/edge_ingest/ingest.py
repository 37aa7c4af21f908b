"""Take batches of other nodes' streams into this node's own stream `ingest`."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import anyio
from prometheus_client import CollectorRegistry, Counter

from sparkd import (
    BatchReceipt,
    BatchRecord,
    CallError,
    CallErrorKind,
    CommandResult,
    Context,
    OutboxWriter,
    Record,
    RemoteMessageError,
    StorageError,
    StreamId,
    current_call,
    decode_body,
    encode_body,
    event_type,
    reached,
    topic_matches,
)

from . import ranges
from .commands import CommandOffice
from .policy import Rules, Span, check_stream, refused_because, span_of, wrap
from .settings import EdgeIngestConfig

INGESTED_TOPIC = "sparkd.ingested"
"""Topic of the records of the stream `ingest`; beneath `sparkd`, so no uplink ever forwards one."""


class Figures:
    """What ingest counts, for Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything with *registry*."""
        of_node = ("node",)
        self.batches = Counter("sparkd_ingest_batches", "Batches answered", of_node, registry=registry)
        self.records = Counter("sparkd_ingest_records", "Records stored", of_node, registry=registry)
        self.duplicates = Counter("sparkd_ingest_duplicates", "Records already here", of_node, registry=registry)
        self.refused = Counter("sparkd_ingest_refused", "Records never taken", ("node", "reason"), registry=registry)
        self.absent = Counter(
            "sparkd_ingest_absent", "Numbers without a record: withheld or evicted there", of_node, registry=registry
        )


@dataclass(frozen=True, slots=True)
class Sorted:
    """A batch, sorted by what is to become of it."""

    new: list[BatchRecord]
    refused: dict[int, str]


class IngestDesk:
    """Answers the interface `ingest`.

    Batches of one node are taken one after the other, so an uplink that was restarted while its former self still had
    a batch under way cannot have it stored twice.
    """

    def __init__(self, ctx: Context[EdgeIngestConfig], writer: OutboxWriter, commands: CommandOffice) -> None:
        """Take records for the node of *ctx* into *writer*; tell *commands* of results among them."""
        config = ctx.config
        self._ctx = ctx
        self._writer = writer
        self._commands = commands
        self._figures = Figures(ctx.metrics)
        self._one_at_a_time: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._full = self._closed = False
        self._rules = Rules(
            topics=tuple(config.topics),
            same_site_nodes=frozenset(config.same_site_nodes),
            this_node=ctx.node,
            max_record_bytes=config.max_record_bytes,
        )

    async def append(
        self,
        *,
        node_id: str,
        service: str,
        stream: str,
        epoch: int,
        records: list[BatchRecord],
        after_seq: int | None = None,
        through_seq: int | None = None,
        floor_seq: int = 0,
    ) -> BatchReceipt:
        """Store a batch; see the interface. Raises CallError for a sender or a batch that is not taken."""
        sender, origin = current_call().node, StreamId(node_id, service, stream, epoch)
        self._admit(sender, origin, len(records))
        span = span_of(records, after=after_seq, through=through_seq, floor=floor_seq)
        try:
            # The lock must outlive the transaction: a caller that gives up does not end it half-way.
            async with self._one_at_a_time[node_id]:
                if self._closed:
                    raise CallError(CallErrorKind.UNAVAILABLE, "ingest is stopping", remedy="it is retried")
                with anyio.CancelScope(shield=True):
                    receipt = await self._take(sender, origin, records, span)
            await self._hand_on_results(sender, records)
        except StorageError as error:
            raise self._cannot_store(error) from error
        self._recovered()
        return receipt

    async def close(self) -> None:
        """Take nothing more, and return when nothing is being stored: only then the writer may go."""
        self._closed = True
        for lock in list(self._one_at_a_time.values()):
            async with lock:
                pass

    async def position(self, *, node_id: str, service: str, stream: str, epoch: int) -> int:
        """Return through which number, without a gap from the first, a stream is settled here."""
        origin = StreamId(node_id, service, stream, epoch)
        self._admit(current_call().node, origin, 0)
        return ranges.end_of(ranges.from_bytes(self._writer.mark(_mark_of(origin))), 1)

    def _admit(self, sender: str, origin: StreamId, records: int) -> None:
        """Raise CallError unless *sender* may bring a batch of *origin*."""
        nodes, most = self._ctx.config.nodes, self._ctx.config.max_batch_records
        if nodes and sender not in nodes:
            rule = f"[plugins.edge-ingest] nodes = {list(nodes)}"
            raise CallError(CallErrorKind.DENIED, f"{sender} may not store records here", rule=rule)
        check_stream(origin)
        if records > most:
            raise CallError(CallErrorKind.INVALID_PARAMS, f"records: {records}, the limit is {most}", field="records")
        owner = self._writer.mark(_owner_of(origin.node_id))
        if owner is not None and owner != sender.encode():
            rule = "a node_id belongs to the node that first brought it"
            raise CallError(CallErrorKind.DENIED, f"node_id {origin.node_id} is not {sender}'s", rule=rule)

    async def _take(self, sender: str, origin: StreamId, records: list[BatchRecord], span: Span) -> BatchReceipt:
        self._admit(sender, origin, 0)  # again, now that nobody else is between the look and the act
        settled = ranges.add(ranges.from_bytes(self._writer.mark(_mark_of(origin))), 1, span.floor)
        sorted_ = self._sort(sender, records, settled)
        after = ranges.add_except(settled, span.after + 1, span.through, sorted_.refused)
        if sorted_.new:
            await self._store(sender, origin, sorted_.new, after)
        self._count(sender, records, span, sorted_)
        # What was refused is answered too, so the sender may pass it; it is kept open here in case rules change.
        unbroken = ranges.add(after, span.after + 1, span.through)
        return BatchReceipt(
            stored=len(sorted_.new),
            through_seq=max(span.through, ranges.end_of(unbroken, span.through)),
            refused=sorted_.refused,
        )

    def _sort(self, sender: str, records: list[BatchRecord], settled: ranges.Ranges) -> Sorted:
        new, refused = list[BatchRecord](), dict[int, str]()
        for record in records:
            if ranges.holds(settled, record.seq):
                continue
            reason = refused_because(record, sender=sender, rules=self._rules)
            if reason:
                refused[record.seq] = reason
            else:
                new.append(record)
        return Sorted(new, refused)

    async def _store(self, sender: str, origin: StreamId, new: list[BatchRecord], after: ranges.Ranges) -> None:
        arrival_ns, mono_ns = time.time_ns(), time.monotonic_ns()
        kept = [
            Record(
                topic=INGESTED_TOPIC,
                body=encode_body(wrap(record, node=sender, stream=origin, arrival_ns=arrival_ns)),
                privacy=record.privacy,
                wall_ns=arrival_ns,
                mono_ns=mono_ns,
                trace=record.trace,
                priority=record.priority,
            )
            for record in new
        ]
        marks = {_mark_of(origin): ranges.to_bytes(after), _owner_of(origin.node_id): sender.encode()}
        reached("ingest.before-append")
        await self._writer.append(kept, marks=marks)
        reached("ingest.after-append")

    async def _hand_on_results(self, sender: str, records: list[BatchRecord]) -> None:
        """Tell the office what came of commands: also of records seen before, as the first telling may have failed."""
        topic = event_type(CommandResult).topic
        for record in records:
            if topic_matches(topic, record.topic):
                try:
                    result = decode_body(CommandResult, record.body)
                except RemoteMessageError as error:
                    self._ctx.log.warning("malformed command result", node=sender, seq=record.seq, error=str(error))
                else:
                    await self._commands.result(sender, result)

    def _count(self, sender: str, records: list[BatchRecord], span: Span, sorted_: Sorted) -> None:
        figures = self._figures
        figures.batches.labels(sender).inc()
        figures.records.labels(sender).inc(len(sorted_.new))
        figures.duplicates.labels(sender).inc(len(records) - len(sorted_.new) - len(sorted_.refused))
        figures.absent.labels(sender).inc(span.through - span.after - len(records))
        for reason in sorted_.refused.values():
            figures.refused.labels(sender, reason.partition(":")[0]).inc()

    def _cannot_store(self, error: StorageError) -> CallError:
        remedy = f"free space on the state disk of {self._ctx.node}"
        if not self._full:
            self._full = True
            self._ctx.log.error("records cannot be stored; senders keep them", exc_info=error)
        self._ctx.degraded(f"records cannot be stored: {error}", remedy=remedy)
        return CallError(CallErrorKind.UNAVAILABLE, f"records cannot be stored: {error}", remedy=remedy)

    def _recovered(self) -> None:
        if self._full:
            self._full = False
            self._ctx.recovered()


def _mark_of(origin: StreamId) -> str:
    return f"have/{origin.node_id}/{origin.service}/{origin.stream}/{origin.epoch:016x}"


def _owner_of(node_id: str) -> str:
    return f"owner/{node_id}"
