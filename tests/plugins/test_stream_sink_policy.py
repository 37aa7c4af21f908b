"""Which row a record becomes, and which cannot be one."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from sparkd import (
    AnalyticsEvent,
    CommandResult,
    Detection,
    Inference,
    Ingested,
    Privacy,
    RemoteMessageError,
    SensorReading,
    Telemetry,
    encode_body,
)
from sparkd_plugins.stream_sink.policy import ENVELOPE, Row, row_of

TELEMETRY = Telemetry(
    cpu_percent=12.5, load_1min=0.5, memory_total_bytes=8 << 30, memory_available_bytes=4 << 30, uptime_s=1.0
)
INFERENCE = Inference(
    model="nanodet",
    model_version="1",
    task="detect",
    source="dog.jpg",
    width=640,
    height=480,
    backend="onnx",
    detections=[Detection(label="dog", score=0.9, box=(1.0, 2.0, 3.0, 4.0))],
    source_ns=77,
)


def ingested(topic: str, body: bytes, *, epoch: int = 2**64 - 1, seq: int = 7, wall_ns: int = 5) -> bytes:
    return encode_body(
        Ingested(
            node="control-pc",
            node_id="0" * 32,
            service="svc",
            stream="events",
            epoch=epoch,
            seq=seq,
            topic=topic,
            body=body,
            privacy=Privacy.SHARED,
            wall_ns=wall_ns,
            arrival_ns=6,
            trace=b"\x01" * 16,
        )
    )


def named(row: Row) -> dict[str, Any]:
    names = [name for name, _ in (*ENVELOPE, *row.table.columns)]
    return dict(zip(names, (*row.envelope, *row.columns), strict=True))


@pytest.mark.parametrize(
    ("topic", "event", "table", "some"),
    [
        ("edge.telemetry", TELEMETRY, "device_metrics", {"cpu_percent": 12.5, "memory_total_bytes": 8 << 30}),
        (
            "edge.ai.inference",
            INFERENCE,
            "ai_inference_results",
            {"source": "dog.jpg", "detections": 1, "source_ns": 77},
        ),
        ("edge.sensors", SensorReading(sensor="a", quantity="t", value=1.5, unit="C"), "sensor_data", {"value": 1.5}),
        ("edge.sensors.a", SensorReading(sensor="a", quantity="t", value=1.5, unit="C"), "sensor_data", {"unit": "C"}),
        ("analytics.events", AnalyticsEvent(name="started"), "analytics_events", {"name": "started"}),
        (
            "cloud.commands.result",
            CommandResult(command_id="c", ok=True, result={"a": 1}),
            "command_results",
            {"ok": 1},
        ),
        ("weather.rain", {"mm": 3}, "other_events", {"body": encode_body({"mm": 3})}),
        ("edge.sensors.power", {"volts": 12.1}, "other_events", {"topic": "edge.sensors.power"}),
    ],
)
def test_each_topic_has_its_table(topic: str, event: object, table: str, some: dict[str, object]) -> None:
    row = row_of(ingested(topic, encode_body(event)))

    assert row.table.name == table
    assert named(row).items() >= some.items()
    assert named(row).items() >= {"node": "control-pc", "epoch": "f" * 16, "seq": 7, "privacy": "shared"}.items()
    assert json.loads(row.payload) is not None


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        ("edge.telemetry", b""),
        ("edge.telemetry", b"\xc1"),
        ("edge.telemetry", encode_body({"cpu_percent": "many"})),
        ("edge.telemetry", b"\x91" * 5000),
        ("edge.ai.inference", encode_body({**json.loads('{"model": "m"}'), "width": 2**64 - 1})),
    ],
)
def test_a_body_that_is_not_its_topics_event_is_no_row(topic: str, body: bytes) -> None:
    with pytest.raises(RemoteMessageError):
        row_of(ingested(topic, body))


def test_a_number_no_column_holds_is_no_row() -> None:
    body = msgpack.packb({**msgpack.unpackb(encode_body(TELEMETRY)), "memory_total_bytes": 2**64 - 1})

    with pytest.raises(RemoteMessageError, match="memory_total_bytes"):
        row_of(ingested("edge.telemetry", body))
    with pytest.raises(RemoteMessageError, match="wall_ns"):
        row_of(ingested("edge.telemetry", encode_body(TELEMETRY), wall_ns=2**64 - 1))


@pytest.mark.parametrize("body", [b"", b"\xc1\x00raw", b"\x91" * 5000, msgpack.packb({1.5: b"x"})])
def test_an_unknown_topic_keeps_whatever_bytes_it_has(body: bytes) -> None:
    row = row_of(ingested("camera.raw", body))

    assert row.table.name == "other_events"
    assert row.columns == (body,)
    json.loads(row.payload)


def test_what_is_not_an_ingested_record_is_no_row() -> None:
    with pytest.raises(RemoteMessageError):
        row_of(b"\x80")


def test_what_json_cannot_say_is_said_otherwise() -> None:
    body = msgpack.packb({"nan": float("nan"), "bytes": b"\x00", "ext": msgpack.ExtType(4, b"z")})

    payload = json.loads(row_of(ingested("camera.raw", body)).payload)

    assert payload["nan"] is None
    assert payload["bytes"] == "AA=="
