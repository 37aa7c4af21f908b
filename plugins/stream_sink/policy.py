"""Which table a record goes to, and what its row is: decisions only, no I/O.

Floats may be NULL: SQLite has no NaN.

A record on exactly one of the topics known here must be that event: if it is not, it is a dead letter. On a topic
beneath, it may be a stranger's own event; if it does not fit, it goes to `other_events`, like every unknown topic.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from sparkd import (
    AnalyticsEvent,
    CommandResult,
    Inference,
    Ingested,
    RemoteMessageError,
    SensorReading,
    Telemetry,
    decode_body,
    event_type,
    topic_matches,
)

Value = str | int | float | bytes | None
INT64 = range(-(2**63), 2**63)

ENVELOPE = (
    ("node_id", "TEXT NOT NULL"),
    ("service", "TEXT NOT NULL"),
    ("stream", "TEXT NOT NULL"),
    ("epoch", "TEXT NOT NULL"),  # 64 bits in hex: SQLite's integers are signed
    ("seq", "INTEGER NOT NULL"),
    ("node", "TEXT NOT NULL"),
    ("topic", "TEXT NOT NULL"),
    ("privacy", "TEXT NOT NULL"),
    ("wall_ns", "INTEGER NOT NULL"),
    ("arrival_ns", "INTEGER NOT NULL"),
    ("trace", "TEXT"),
)
"""The columns that every table begins with; the first five are its primary key."""
IDENTITY = tuple(name for name, _ in ENVELOPE[:5])


@dataclass(frozen=True, slots=True)
class Table:
    """One table: the event it holds and its typed columns, beside the envelope and the payload in JSON."""

    name: str
    event: type[Any] | None
    columns: tuple[tuple[str, str], ...]
    values: Callable[[Any], tuple[Value, ...]]

    @property
    def schema(self) -> str:
        """The SQL that makes it."""
        columns = (*ENVELOPE, *self.columns, ("payload", "TEXT NOT NULL"), ("stored_ns", "INTEGER NOT NULL"))
        body = ", ".join(f"{name} {kind}" for name, kind in columns)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({body}, PRIMARY KEY ({', '.join(IDENTITY)}))"

    @property
    def insert(self) -> str:
        """The SQL that adds a row, unless its identity is there already."""
        marks = ", ".join("?" * (len(ENVELOPE) + len(self.columns) + 2))
        return f"INSERT INTO {self.name} VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608 - names from this file


@dataclass(frozen=True, slots=True)
class Row:
    """One row, complete but for the time it is stored."""

    table: Table
    envelope: tuple[Value, ...]
    columns: tuple[Value, ...]
    payload: str


def _telemetry(event: Telemetry) -> tuple[Value, ...]:
    memory = (event.memory_total_bytes, event.memory_available_bytes, event.swap_used_bytes)
    return (event.cpu_percent, event.load_1min, *memory, event.uptime_s)


def _inference(event: Inference) -> tuple[Value, ...]:
    model = (event.model, event.model_version, event.task, event.backend)
    return (*model, event.source, event.width, event.height, len(event.detections), event.source_ns)


TABLES = (
    Table(
        "device_metrics",
        Telemetry,
        (
            ("cpu_percent", "REAL"),
            ("load_1min", "REAL"),
            ("memory_total_bytes", "INTEGER NOT NULL"),
            ("memory_available_bytes", "INTEGER NOT NULL"),
            ("swap_used_bytes", "INTEGER NOT NULL"),
            ("uptime_s", "REAL"),
        ),
        _telemetry,
    ),
    Table(
        "ai_inference_results",
        Inference,
        (
            ("model", "TEXT NOT NULL"),
            ("model_version", "TEXT NOT NULL"),
            ("task", "TEXT NOT NULL"),
            ("backend", "TEXT NOT NULL"),
            ("source", "TEXT NOT NULL"),
            ("width", "INTEGER NOT NULL"),
            ("height", "INTEGER NOT NULL"),
            ("detections", "INTEGER NOT NULL"),
            ("source_ns", "INTEGER NOT NULL"),
        ),
        _inference,
    ),
    Table(
        "sensor_data",
        SensorReading,
        (("sensor", "TEXT NOT NULL"), ("quantity", "TEXT NOT NULL"), ("value", "REAL"), ("unit", "TEXT NOT NULL")),
        lambda event: (event.sensor, event.quantity, event.value, event.unit),
    ),
    Table(
        "analytics_events",
        AnalyticsEvent,
        (("name", "TEXT NOT NULL"),),
        lambda event: (event.name,),
    ),
    Table(
        "command_results",
        CommandResult,
        (("command_id", "TEXT NOT NULL"), ("ok", "INTEGER NOT NULL"), ("error", "TEXT NOT NULL")),
        lambda event: (event.command_id, int(event.ok), event.error),
    ),
)
OTHER = Table("other_events", None, (("body", "BLOB NOT NULL"),), lambda body: (body,))
ALL_TABLES = (*TABLES, OTHER)


def row_of(body: bytes) -> Row:
    """Return the row that a record of the stream `ingest` becomes. Raises RemoteMessageError if it cannot be one."""
    origin: Ingested = decode_body(Ingested, body)
    for table in TABLES:
        topic = event_type(table.event).topic if table.event else ""
        if origin.topic == topic:
            return _typed(table, origin)
        if topic_matches(topic, origin.topic):
            return _typed_if_it_fits(table, origin)
    return _other(origin)


def _typed(table: Table, origin: Ingested) -> Row:
    values = table.values(decode_body(table.event, origin.body))
    for (column, _), value in zip(table.columns, values, strict=True):
        if isinstance(value, int) and value not in INT64:
            raise RemoteMessageError(f"{origin.topic}: {column} is {value}, which no database column holds")
    return Row(table, _envelope(origin), values, _json(decode_body(Any, origin.body)))


def _typed_if_it_fits(table: Table, origin: Ingested) -> Row:
    try:
        return _typed(table, origin)
    except RemoteMessageError:
        return _other(origin)


def _other(origin: Ingested) -> Row:
    """Keep the bytes; and as JSON too, if they are MessagePack."""
    try:
        payload = _json(decode_body(Any, origin.body))
    except RemoteMessageError:
        payload = "null"
    return Row(OTHER, _envelope(origin), (origin.body,), payload)


def _envelope(origin: Ingested) -> tuple[Value, ...]:
    for name, number in (("seq", origin.seq), ("wall_ns", origin.wall_ns), ("arrival_ns", origin.arrival_ns)):
        if number not in INT64:
            raise RemoteMessageError(f"{name} is {number}, which no database column holds")
    identity = (origin.node_id, origin.service, origin.stream, f"{origin.epoch:016x}", origin.seq)
    trace = None if origin.trace is None else origin.trace.hex()
    return (*identity, origin.node, origin.topic, origin.privacy.label, origin.wall_ns, origin.arrival_ns, trace)


def _json(plain: Any) -> str:
    """Return plain values as JSON: bytes in base64, NaN as null, what JSON has no word for as Python would print it."""
    try:
        return msgspec.json.encode(plain, enc_hook=repr).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RemoteMessageError(f"no JSON form: {error}") from None


def retry_delay_s(failures: int, *, least_s: float, most_s: float) -> float:
    """Return how long to wait after *failures* failed attempts in a row: exponential with full jitter."""
    return random.uniform(least_s, max(least_s, min(most_s, least_s * 2 ** min(failures, 30))))
