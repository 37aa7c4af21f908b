"""Who may bring what: decisions only, no I/O."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparkd import TOPIC, BatchRecord, CallError, CallErrorKind, Ingested, StreamId, topic_matches

INTERNAL_TOPIC = "sparkd"
"""What is beneath it is a node's own bookkeeping, and copies of other nodes' records: not taken from anyone."""
NODE_ID = re.compile(r"[0-9a-f]{32}")
STREAM_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_SEQ = 2**63 - 1
MAX_EPOCH = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is taken, as far as a record and its sender's node tell."""

    topics: tuple[str, ...] = ()
    same_site_nodes: frozenset[str] = frozenset()
    this_node: str = ""
    max_record_bytes: int = 512 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """What a batch covers: everything after *after* through *through*; all through *floor* is settled anyway."""

    after: int
    through: int
    floor: int


def check_stream(stream: StreamId) -> None:
    """Raise CallError, naming the field, for a stream that cannot be."""
    if not NODE_ID.fullmatch(stream.node_id):
        raise _invalid("node_id", "32 hexadecimal digits expected")
    for field, text in (("service", stream.service), ("stream", stream.stream)):
        if not STREAM_PART.fullmatch(text):
            raise _invalid(field, f"not a name: {text[:80]!r}")
    if not 0 <= stream.epoch <= MAX_EPOCH:
        raise _invalid("epoch", f"64 bits expected, got {stream.epoch}")


def span_of(records: Sequence[BatchRecord], *, after: int | None, through: int | None, floor: int) -> Span:
    """Return what a batch covers. Raises CallError, naming the field, if it contradicts itself."""
    if after is None:
        after = records[0].seq - 1 if records else floor
    if through is None:
        through = records[-1].seq if records else after
    if not 0 <= after <= through <= MAX_SEQ:
        raise _invalid("after_seq", f"0 <= after_seq {after} <= through_seq {through} expected")
    if not 0 <= floor <= MAX_SEQ:
        raise _invalid("floor_seq", f"0 or more expected, got {floor}")
    if any(second.seq <= first.seq for first, second in pairwise(records)):
        raise _invalid("records", "sequence numbers must rise")
    if records and not after < records[0].seq <= records[-1].seq <= through:
        raise _invalid("records", f"sequence numbers outside {after + 1}..{through}")
    return Span(after, through, floor)


def refused_because(record: BatchRecord, *, sender: str, rules: Rules) -> str:
    """Return why *record* will never be taken from the node *sender*, or nothing if it will."""
    same_node, same_site = sender == rules.this_node, sender in rules.same_site_nodes
    if not record.privacy.may_reach(same_node=same_node, same_site=same_site):
        return f"privacy: class {record.privacy.label} may not come from {sender} to {rules.this_node}"
    if not TOPIC.fullmatch(record.topic) or topic_matches(INTERNAL_TOPIC, record.topic):
        return f"topic: {record.topic[:80]!r} is malformed, or internal to a node"
    if rules.topics and not any(topic_matches(topic, record.topic) for topic in rules.topics):
        return f"topic: {record.topic!r} is not taken here"
    if len(record.body) > rules.max_record_bytes:
        return f"oversize: {len(record.body)} bytes, the limit is {rules.max_record_bytes}"
    return ""


def wrap(record: BatchRecord, *, node: str, stream: StreamId, arrival_ns: int) -> Ingested:
    """Return *record* of *node*'s *stream* as it is kept here."""
    return Ingested(
        node=node,
        node_id=stream.node_id,
        service=stream.service,
        stream=stream.stream,
        epoch=stream.epoch,
        seq=record.seq,
        topic=record.topic,
        body=record.body,
        privacy=record.privacy,
        wall_ns=record.wall_ns,
        arrival_ns=arrival_ns,
        trace=record.trace,
    )


def retry_delay_s(failures: int, *, least_s: float, most_s: float) -> float:
    """Return how long to wait after *failures* failed attempts in a row: exponential with full jitter."""
    return random.uniform(least_s, max(least_s, min(most_s, least_s * 2 ** min(failures, 30))))


def _invalid(field: str, message: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, f"{field}: {message}", field=field)
