"""Metrics of the core and of every service, merged into one page for Prometheus.

A service keeps an ordinary `CollectorRegistry`. When Prometheus asks, the core asks each host for a snapshot and adds
the label `service`. So an increment costs what it always costs, and a service that has died leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from wsgiref.simple_server import WSGIServer

import anyio
import msgspec
from anyio.from_thread import BlockingPortal
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sparkd.codec import MALFORMED
from sparkd.errors import RemoteMessageError

SCRAPE_LIMIT_S = 5.0
MAX_FAMILIES = 2000
LABEL = "service"


class _Sample(msgspec.Struct, array_like=True, frozen=True):
    name: str
    labels: dict[str, str]
    value: float


class _Family(msgspec.Struct, array_like=True, frozen=True):
    name: str
    documentation: str
    kind: str
    unit: str
    samples: list[_Sample]


_decode = msgspec.msgpack.Decoder(list[_Family]).decode

Snapshots = Callable[[], Awaitable[list[tuple[str, bytes]]]]
"""Returns (service, snapshot) of each service that answers."""


def snapshot(registry: CollectorRegistry) -> bytes:
    """Return everything in *registry*, as bytes for `merge`."""
    families = [
        _Family(
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [_Sample(sample.name, dict(sample.labels), sample.value) for sample in family.samples],
        )
        for family in registry.collect()
    ]
    return msgspec.msgpack.encode(families)


def merge(snapshots: Iterable[tuple[str, bytes]], *, on_bad: Callable[[str, str], None]) -> Iterator[Metric]:
    """Yield the families of all *snapshots*, each sample with the label `service`; *on_bad* hears of unusable ones."""
    merged: dict[str, Metric] = {}
    for service, content in snapshots:
        try:
            _add(merged, service, content)
        except RemoteMessageError as error:
            on_bad(service, str(error))
    yield from merged.values()


def _add(merged: dict[str, Metric], service: str, content: bytes) -> None:
    try:
        families = _decode(content)
        if len(families) > MAX_FAMILIES:
            raise ValueError(f"{len(families)} metric families; {MAX_FAMILIES} at the most")
        fresh = [(family, Metric(family.name, family.documentation, family.kind, family.unit)) for family in families]
    except MALFORMED as error:
        raise RemoteMessageError(f"not a snapshot of metrics: {error}") from None
    for family, metric in fresh:
        held = merged.setdefault(family.name, metric)
        if held.type != metric.type:
            continue  # two services mean different things by one name: the first keeps it
        for sample in family.samples:
            held.add_sample(sample.name, {**sample.labels, LABEL: service}, sample.value)


class _Merged(Collector):
    """Asks the event loop for the snapshots when Prometheus asks the server's thread."""

    def __init__(self, portal: BlockingPortal, snapshots: Snapshots, on_bad: Callable[[str, str], None]) -> None:
        self._portal, self._snapshots, self._on_bad = portal, snapshots, on_bad

    def describe(self) -> list[Metric]:
        return []  # what there is is known only when it is asked for

    def collect(self) -> Iterator[Metric]:
        yield from merge(self._portal.call(self._within_limit), on_bad=self._on_bad)

    async def _within_limit(self) -> list[tuple[str, bytes]]:
        with anyio.move_on_after(SCRAPE_LIMIT_S):
            return await self._snapshots()
        return []


@asynccontextmanager
async def serve_metrics(
    address: str, snapshots: Snapshots, *, on_bad: Callable[[str, str], None] = lambda _service, _why: None
) -> AsyncIterator[int]:
    """Answer `GET /metrics` on *address* (`host:port`) while the block runs; yield the port.

    Raises OSError if it cannot listen there.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry(auto_describe=False)
    server: WSGIServer
    thread: Any
    server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
    try:
        async with BlockingPortal() as portal:
            registry.register(_Merged(portal, snapshots, on_bad))
            try:
                yield server.server_port
            finally:
                await portal.stop(cancel_remaining=True)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.shutdown)
            server.server_close()
            await anyio.to_thread.run_sync(thread.join, 1.0)
