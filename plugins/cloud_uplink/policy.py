"""What may leave, what a failure means, how long to wait: decisions only, no I/O and no clock of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from sparkd import BatchRecord, CallError, CallErrorKind, Record, StorageError, Stored, topic_matches

INTERNAL_TOPIC = "sparkd"
"""Records beneath it are this node's own bookkeeping, and copies of other nodes' records: never forwarded again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may go to the target, as far as a record itself tells."""

    topics: tuple[str, ...] = ()
    same_node: bool = False
    same_site: bool = False
    max_record_bytes: int = 512 * 1024


@dataclass(slots=True)
class Batch:
    """What was read of a stream, sorted by what is to become of it."""

    records: list[BatchRecord] = field(default_factory=list)
    dead: list[tuple[Stored, str]] = field(default_factory=list)
    withheld: Counter[str] = field(default_factory=Counter)

    @property
    def size_bytes(self) -> int:
        """Bytes of the bodies that go out."""
        return sum(len(record.body) for record in self.records)


def wanted(service: str, stream: str, patterns: Sequence[str]) -> bool:
    """Whether the stream is to be shipped: a pattern such as `*` or `node-telemetry/*` matches it."""
    return any(fnmatchcase(f"{service}/{stream}", pattern) for pattern in patterns)


def sort_out(read: Sequence[Stored], rules: Rules) -> Batch:
    """Sort what was read. What has expired the outbox does not give out in the first place."""
    batch = Batch()
    for stored in read:
        reason = withheld_because(stored.record, rules)
        if reason:
            batch.withheld[reason] += 1
        elif len(stored.record.body) > rules.max_record_bytes:
            size = len(stored.record.body)
            batch.dead.append((stored, f"oversize: {size} bytes, the limit is {rules.max_record_bytes}"))
        else:
            batch.records.append(to_batch(stored))
    return batch


def withheld_because(record: Record, rules: Rules) -> str:
    """Return why a record stays here for ever (`internal`, `privacy`, `topic`), or nothing if it may go."""
    if topic_matches(INTERNAL_TOPIC, record.topic):
        return "internal"
    if not record.privacy.may_reach(same_node=rules.same_node, same_site=rules.same_site):
        return "privacy"
    if rules.topics and not any(topic_matches(topic, record.topic) for topic in rules.topics):
        return "topic"
    return ""


def to_batch(stored: Stored) -> BatchRecord:
    """Return a stored record in the form it travels in. The idempotency key stays here: seq does its work there."""
    record = stored.record
    return BatchRecord(
        seq=stored.seq,
        topic=record.topic,
        body=record.body,
        privacy=record.privacy,
        wall_ns=record.wall_ns,
        mono_ns=record.mono_ns,
        trace=record.trace,
        priority=record.priority,
        expires_ns=record.expires_ns,
    )


class Verdict(Enum):
    """Whose fault a failed attempt was."""

    UNREACHABLE = "unreachable"  # the target's, the link's or a disk's: wait, all streams alike, for ever
    TOO_SLOW = "too-slow"  # perhaps the batch is too large for the link: wait and send less
    UNACCEPTABLE = "unacceptable"  # perhaps one of the records: find it, and after some tries put it aside


_VERDICTS = {
    CallErrorKind.INVALID_PARAMS: Verdict.UNACCEPTABLE,
    CallErrorKind.FAILED: Verdict.UNACCEPTABLE,
    CallErrorKind.DEADLINE: Verdict.TOO_SLOW,
}


def verdict(error: Exception) -> Verdict:
    """Return whose fault *error* was. Being denied is the operator's to settle, so it waits like a dead link."""
    if isinstance(error, CallError):
        return _VERDICTS.get(error.kind, Verdict.UNREACHABLE)
    return Verdict.UNREACHABLE if isinstance(error, StorageError) else Verdict.UNACCEPTABLE


def next_limit(limit: int, verdict_: Verdict | None, *, most: int) -> int:
    """Return how many records the next batch may have, after one that failed so, or came through (None)."""
    if verdict_ is Verdict.UNACCEPTABLE:
        return 1
    if verdict_ is Verdict.TOO_SLOW:
        return max(1, limit // 2)
    return limit if verdict_ else min(most, limit * 2)


def retry_delay_s(failures: int, *, least_s: float, most_s: float) -> float:
    """Return how long to wait after *failures* failed attempts in a row: exponential with full jitter."""
    ceiling = min(most_s, least_s * 2 ** min(failures, 30))
    return random.uniform(least_s, max(least_s, ceiling))


def behind(*, tail: int, through: int, batch: int) -> bool:
    """Whether a stream that has been shipped *through* this far has history enough for a lane of its own.

    Measured in batches, of whatever size the limits made them: more than three is more than a moment's burst.
    """
    return tail - through > 3 * batch
