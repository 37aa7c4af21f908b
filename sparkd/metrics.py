"""Metrics of the core and of every service, merged into one page for Prometheus.

A service keeps an ordinary `CollectorRegistry`. When Prometheus asks, the core asks each host for a snapshot and adds
the label `service`. So an increment costs what it always costs, and a service that has died leaves nothing behind.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from sparkd.codec import MALFORMED
from sparkd.errors import RemoteMessageError

SCRAPE_LIMIT_S = 5.0
EXCHANGE_LIMIT_S = 10.0
"""From the connection to the last byte of the answer; Prometheus itself gives up after 10 s by default."""
MAX_CONNECTIONS = 4
ACCEPT_PAUSE_S = 0.5
MAX_FAMILIES = 2000
LABEL = "service"
TAKEN_LABEL = "exported_service"
"""What a service's own label `service` is called on the page, as Prometheus does itself with a label it sets."""


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
OnBad = Callable[[str, str], None]
"""Hears the service and the reason of what could not be taken; called in a worker thread when a page is made."""


def snapshot(registry: CollectorRegistry) -> bytes:
    """Return everything in *registry*, as bytes for `merge`."""
    families = [
        _Family(
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [
                _Sample(sample.name, {k: str(v) for k, v in sample.labels.items()}, sample.value)
                for sample in family.samples
            ],
        )
        for family in registry.collect()
    ]
    return msgspec.msgpack.encode(families)


def merge(snapshots: Iterable[tuple[str, bytes]], *, on_bad: OnBad) -> Iterator[Metric]:
    """Yield the families of all *snapshots*, each sample with the label `service`; *on_bad* hears of unusable ones."""
    merged: dict[str, Metric] = {}
    for service, content in snapshots:
        try:
            _add(merged, service, content, on_bad)
        except RemoteMessageError as error:
            on_bad(service, str(error))
    yield from merged.values()


def sums(content: bytes, names: Collection[str]) -> dict[str, float]:
    """Return the families called *names* of a snapshot: counters and gauges, each the sum of its samples.

    What is no snapshot counts as none.
    """
    try:
        families = [family for family in _decode(content) if family.name in names]
    except MALFORMED:
        return {}
    wanted = {"counter": "_total", "gauge": ""}
    return {
        family.name: sum(one.value for one in family.samples if one.name == family.name + wanted[family.kind])
        for family in families
        if family.kind in wanted
    }


def _add(merged: dict[str, Metric], service: str, content: bytes, on_bad: OnBad) -> None:
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
            on_bad(service, f"metric {family.name} is a {metric.type} here and a {held.type} elsewhere, which keeps it")
            continue
        for sample in family.samples:
            labels = {TAKEN_LABEL if key == LABEL else key: value for key, value in sample.labels.items()}
            held.add_sample(sample.name, {**labels, LABEL: service}, sample.value)


class _Page:
    """What Prometheus is shown, made when it asks."""

    def __init__(self, snapshots: Snapshots, on_bad: OnBad) -> None:
        self._snapshots, self._on_bad = snapshots, on_bad

    def bad(self, service: str, why: str) -> None:
        """Tell of what could not be shown."""
        self._on_bad(service, why)

    def content(self) -> bytes | None:
        """Return the page, or None if the services did not answer in time. Called in a worker thread."""
        found = anyio.from_thread.run(self._within_limit)
        return None if found is None else generate_latest(_Families(list(merge(found, on_bad=self._on_bad))))

    async def _within_limit(self) -> list[tuple[str, bytes]] | None:
        with anyio.move_on_after(SCRAPE_LIMIT_S):
            return await self._snapshots()
        return None


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer, in a worker thread. Making the object does it all."""

    server_version, sys_version = "sparkd", ""

    def __init__(self, connection: socket.socket, peer: Any, page: _Page) -> None:
        self._page = page
        super().__init__(connection, peer, server=None)  # type: ignore[arg-type] # it only keeps it

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._send("text/html; charset=utf-8", b'<a href="/metrics">Metrics of this node</a>\n')
        elif path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, explain="There is /metrics.")
        elif (content := self._page.content()) is None:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain="The services did not answer in time.")
        else:
            self._send(CONTENT_TYPE_LATEST, content)

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of http.server
        """Say nothing: a scrape every few seconds is no news."""


@asynccontextmanager
async def serve_metrics(
    address: str, snapshots: Snapshots, *, on_bad: OnBad = lambda _service, _why: None
) -> AsyncIterator[int]:
    """Answer `GET /metrics` on *address* (`host:port`) while the block runs; yield the port.

    Waiting for a connection costs no thread; an exchange has one for as long as it lasts, which is bounded. Raises
    OSError if it cannot listen there.
    """
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), int(port)), family=family) as listening:
        listening.setblocking(False)  # noqa: FBT003 - socket has no keyword for it
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_accept, listening, _Page(snapshots, on_bad))
            try:
                yield listening.getsockname()[1]
            finally:
                tasks.cancel_scope.cancel()


async def _accept(listening: socket.socket, page: _Page) -> None:
    slots = anyio.Semaphore(MAX_CONNECTIONS)
    async with anyio.create_task_group() as tasks:
        while True:
            await slots.acquire()
            tasks.start_soon(_answer, *await _next(listening), page, slots)


async def _next(listening: socket.socket) -> tuple[socket.socket, Any]:
    while True:
        await anyio.wait_readable(listening)
        try:
            return listening.accept()
        except BlockingIOError:  # it went away again
            continue
        except OSError:  # no descriptor is free; the connection still waits, so asking at once would spin
            await anyio.sleep(ACCEPT_PAUSE_S)


async def _answer(connection: socket.socket, peer: Any, page: _Page, slots: anyio.Semaphore) -> None:
    connection.settimeout(EXCHANGE_LIMIT_S)
    try:
        with anyio.move_on_after(EXCHANGE_LIMIT_S):
            await anyio.to_thread.run_sync(_Exchange, connection, peer, page, abandon_on_cancel=True)
    except OSError:
        pass  # the peer hung up; it will come again
    except Exception as error:  # noqa: BLE001 - a figure that cannot be shown must not end the daemon
        page.bad("core", f"no page of metrics: {type(error).__name__}: {error}")
    finally:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that was left waiting for the peer
        connection.close()
        slots.release()
