"""Metrics as Prometheus gets them: over HTTP, read by the client library's own parser."""

from __future__ import annotations

import urllib.request
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from sparkd.metrics import merge, serve_metrics, snapshot

pytestmark = pytest.mark.anyio


def registry(events: int) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("sparkd_test_events", "Events.", ["kind"], registry=made).labels("a").inc(events)
    Gauge("sparkd_test_depth", "Depth.", registry=made).set(2.5)
    Histogram("sparkd_test_seconds", "Time.", registry=made, buckets=(1, 2)).observe(1.5)
    return made


def get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        content: str = response.read().decode()
        return content


def samples(text: str) -> dict[tuple[str, str], Any]:
    return {
        (sample.name, sample.labels.get("service", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_service_has_its_label() -> None:
    async def snapshots() -> list[tuple[str, bytes]]:
        return [("one", snapshot(registry(3))), ("two", snapshot(registry(4)))]

    async with serve_metrics("127.0.0.1:0", snapshots) as port:
        found = samples(await anyio.to_thread.run_sync(get, port))

    assert found["sparkd_test_events_total", "one"] == 3
    assert found["sparkd_test_events_total", "two"] == 4
    assert found["sparkd_test_depth", "two"] == 2.5
    assert found["sparkd_test_seconds_count", "one"] == 1


async def test_a_snapshot_that_is_none_costs_only_itself() -> None:
    complaints: list[str] = []
    content = [("bad", b"\xc1"), ("worse", b""), ("good", snapshot(registry(1)))]

    families = list(merge(content, on_bad=lambda service, _: complaints.append(service)))

    assert complaints == ["bad", "worse"]
    assert {s.labels["service"] for f in families for s in f.samples} == {"good"}


async def test_one_name_with_two_meanings_stays_with_the_first() -> None:
    other = CollectorRegistry()
    Gauge("sparkd_test_seconds", "Something else.", registry=other).set(1)

    families = list(merge([("a", snapshot(registry(1))), ("b", snapshot(other))], on_bad=lambda *_: None))

    assert {s.labels["service"] for f in families if f.name == "sparkd_test_seconds" for s in f.samples} == {"a"}


async def test_services_that_do_not_answer_do_not_hang_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.metrics.SCRAPE_LIMIT_S", 0.05)

    async def snapshots() -> list[tuple[str, bytes]]:
        await anyio.sleep_forever()
        raise AssertionError

    async with serve_metrics("127.0.0.1:0", snapshots) as port:
        assert await anyio.to_thread.run_sync(get, port) == ""


async def test_a_port_in_use_is_an_error() -> None:
    async def snapshots() -> list[tuple[str, bytes]]:
        return []

    async with serve_metrics("127.0.0.1:0", snapshots) as port:
        with pytest.raises(OSError, match="in use"):
            async with serve_metrics(f"127.0.0.1:{port}", snapshots):
                pass
