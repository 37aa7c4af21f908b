"""Metrics as Prometheus gets them: over HTTP, read by the client library's own parser."""

from __future__ import annotations

import urllib.request
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary
from prometheus_client.parser import text_string_to_metric_families

from sparkd.metrics import MAX_CONNECTIONS, merge, serve_metrics, snapshot

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
    told: list[tuple[str, str]] = []
    other = CollectorRegistry()
    Gauge("sparkd_test_seconds", "Something else.", registry=other).set(1)

    families = list(
        merge([("a", snapshot(registry(1))), ("b", snapshot(other))], on_bad=lambda *said: told.append(said))
    )

    assert told == [("b", "metric sparkd_test_seconds is a gauge here and a histogram elsewhere, which keeps it")]
    assert {s.labels["service"] for f in families if f.name == "sparkd_test_seconds" for s in f.samples} == {"a"}


async def test_services_that_do_not_answer_do_not_hang_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.metrics.SCRAPE_LIMIT_S", 0.05)

    async def snapshots() -> list[tuple[str, bytes]]:
        await anyio.sleep_forever()
        raise AssertionError

    async with serve_metrics("127.0.0.1:0", snapshots) as port:
        answer = await exchange(port, b"GET /metrics HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 503")


async def no_snapshots() -> list[tuple[str, bytes]]:
    return []


async def exchange(port: int, request: bytes) -> bytes:
    """Send *request* as it is; return all that comes back."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        answer = b""
        with suppress(anyio.EndOfStream):
            while True:
                answer += await stream.receive()
        return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"501"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"\x16\x03\x01 random bytes\r\n\r\n", b"400"),
    ],
)
async def test_only_get_of_two_paths_is_answered(request_: bytes, status: bytes) -> None:
    async with serve_metrics("127.0.0.1:0", no_snapshots) as port:
        answer = await exchange(port, request_)

    assert status in answer.partition(b"\n")[0] + b" 400" * (b"Error code: 400" in answer)


async def test_peers_that_say_nothing_are_hung_up_on_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkd.metrics.EXCHANGE_LIMIT_S", 0.2)
    async with serve_metrics("127.0.0.1:0", no_snapshots) as port, AsyncExitStack() as stack:
        silent = [
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            for _ in range(MAX_CONNECTIONS * 2)
        ]
        with anyio.fail_after(10):
            assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.0 200")
            for stream in silent:
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()


async def test_closing_does_not_wait_for_a_silent_peer() -> None:
    with anyio.fail_after(5):
        async with serve_metrics("127.0.0.1:0", no_snapshots) as port:
            stream = await anyio.connect_tcp("127.0.0.1", port)
            assert await exchange(port, b"GET / HTTP/1.1\r\n\r\n")
        await stream.aclose()


async def test_ipv6_is_listened_on() -> None:
    async with serve_metrics("[::1]:0", no_snapshots) as port, await anyio.connect_tcp("::1", port) as stream:
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.0 200")


def test_a_services_own_label_of_that_name_is_kept_beside_ours() -> None:
    own = CollectorRegistry()
    gauge = Gauge("sparkd_test_up", "Up.", ["service"], registry=own)
    gauge.labels("redis").set(1)
    gauge.labels("minio").set(0)

    (family,) = merge([("hub", snapshot(own))], on_bad=lambda *_: None)
    assert [(s.labels["service"], s.labels["exported_service"]) for s in family.samples] == [
        ("hub", "redis"),
        ("hub", "minio"),
    ]


def test_every_type_comes_through_and_exemplars_are_left_out() -> None:
    own = CollectorRegistry()
    Info("sparkd_test_build", "Build.", registry=own).info({"version": "1"})
    Counter("sparkd_test_seen", "Seen.", registry=own).inc(2, exemplar={"trace": "x"})
    Enum("sparkd_test_state", "State.", states=["a", "b"], registry=own).state("b")
    Summary("sparkd_test_size", "Size.", registry=own).observe(3)
    families = list(merge([("one", snapshot(own))], on_bad=lambda *_: pytest.fail("refused")))

    assert {family.type for family in families} == {"info", "counter", "stateset", "summary"}
    assert all(sample.exemplar is None for family in families for sample in family.samples)


async def test_a_port_in_use_is_an_error() -> None:
    async def snapshots() -> list[tuple[str, bytes]]:
        return []

    async with serve_metrics("127.0.0.1:0", snapshots) as port:
        with pytest.raises(OSError, match="in use"):
            async with serve_metrics(f"127.0.0.1:{port}", snapshots):
                pass


async def test_a_page_that_cannot_be_made_is_told_and_ends_nothing() -> None:
    told: list[str] = []
    broken = [True]

    async def snapshots() -> list[tuple[str, bytes]]:
        if broken.pop():
            raise RuntimeError("no")
        return []

    broken[:0] = [False]
    async with serve_metrics(
        "127.0.0.1:0", snapshots, on_bad=lambda service, why: told.append(f"{service}: {why}")
    ) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET /metrics HTTP/1.0\r\n\r\n")
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.0 200")
    assert told == ["core: no page of metrics: RuntimeError: no"]
