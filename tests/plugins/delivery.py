"""One edge node and one cloud node in one process, as the tests of uplink, ingest and sink use them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from sparkd import CallError, CallErrorKind, Outbox, Privacy, Record, SensorReading, encode_body
from sparkd.outbox import DiskOutbox, Limits
from sparkd.testing.wires import WiredContext, Wires
from sparkd_plugins.cloud_uplink import lanes
from sparkd_plugins.cloud_uplink.service import run as run_uplink
from sparkd_plugins.cloud_uplink.settings import CloudUplinkConfig
from sparkd_plugins.edge_ingest import ingest
from sparkd_plugins.edge_ingest.service import run as run_ingest
from sparkd_plugins.edge_ingest.settings import EdgeIngestConfig
from sparkd_plugins.stream_sink import store
from sparkd_plugins.stream_sink.service import run as run_sink
from sparkd_plugins.stream_sink.settings import StreamSinkConfig
from sparkd_plugins.stream_sink.store import count_rows

EDGE_ID, CLOUD_ID = "e" * 32, "c" * 32
QUICK: dict[str, Any] = {"retry_least_s": 0.001, "retry_most_s": 0.002}


class Crash(BaseException):
    """Stands for SIGKILL at a named step: nothing catches it."""


@dataclass
class System:
    """One edge node and one cloud node in a folder."""

    root: Path
    wires: Wires = field(default_factory=Wires)
    uplink: dict[str, Any] = field(default_factory=dict)
    ingest: dict[str, Any] = field(default_factory=dict)
    crash_at: str = ""
    crash_left: int = 0
    crashes: int = 0
    wrote: anyio.Event = field(default_factory=anyio.Event)
    contexts: dict[str, WiredContext[Any]] = field(default_factory=dict)
    scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)

    def outbox(self, node: str, service: str) -> Outbox:
        node_id = EDGE_ID if node == "edge" else CLOUD_ID
        return DiskOutbox(
            self.root / node / "outbox",
            node_id=node_id,
            service=service,
            limits=Limits(),
            clock_is_synchronised=lambda: True,
        )

    @property
    def database(self) -> Path:
        return self.root / "cloud" / "stream-sink" / "sparkd.db"

    def context(self, node: str, service: str, config: Any) -> WiredContext[Any]:
        state_dir = self.root / node / service
        state_dir.mkdir(parents=True, exist_ok=True)
        ctx = WiredContext(self.wires, node, service, config, self.outbox(node, service), state_dir, site=node)
        self.contexts[service] = ctx
        return ctx

    async def append(self, records: Sequence[Record], *, stream: str = "events", service: str = "sensor") -> list[int]:
        async with self.outbox("edge", service).writer(stream) as writer:
            return await writer.append(records)

    def reached(self, step: str) -> None:
        if step == "sink.after-commit":
            anyio.from_thread.run_sync(self._say_written)
        if step == self.crash_at:
            self.crash_left -= 1
            if self.crash_left == 0:
                self.crash_at = ""
                self._crash(step)

    def _crash(self, step: str) -> None:
        """End the process that *step* is in. Ingest's code runs within its caller's task here, so it ends apart."""
        if not step.startswith("ingest."):
            raise Crash(step)
        self.wires.handlers.pop(("cloud", "ingest"))
        self.scopes["edge-ingest"].cancel()
        raise CallError(CallErrorKind.UNAVAILABLE, "gone")

    def _say_written(self) -> None:
        self.wrote.set()
        self.wrote = anyio.Event()

    @asynccontextmanager
    async def running(self, *services: str) -> AsyncIterator[None]:
        """Run the services, each again after a crash, until the end of the block."""
        async with anyio.create_task_group() as tasks:
            for service in services or ("edge-ingest", "stream-sink", "cloud-uplink"):
                await tasks.start(self._supervise, service)
            yield
            tasks.cancel_scope.cancel()

    async def _supervise(self, service: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        said = False
        while True:
            try:
                async with anyio.create_task_group() as tasks:
                    self.scopes[service] = tasks.cancel_scope
                    await tasks.start(self._run, service)
                    if not said:
                        task_status.started()
                        said = True
            except* Crash:
                pass
            self.crashes += 1

    async def _run(self, service: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        if service == "cloud-uplink":
            config = CloudUplinkConfig(target="cloud", **{**QUICK, **self.uplink})
            await run_uplink(self.context("edge", service, config).context(), task_status=task_status)
        elif service == "edge-ingest":
            ingest_config = EdgeIngestConfig(**{**QUICK, **self.ingest})
            await run_ingest(self.context("cloud", service, ingest_config).context(), task_status=task_status)
        else:
            sink_config = StreamSinkConfig(**QUICK)
            await run_sink(self.context("cloud", service, sink_config).context(), task_status=task_status)

    async def stored(self, count: int) -> None:
        """Return once the database has *count* rows."""
        with anyio.fail_after(30):
            while True:
                wrote = self.wrote
                if self.database.exists() and sum(self.counts().values()) >= count:
                    return
                await wrote.wait()

    def counts(self) -> dict[str, int]:
        try:
            return count_rows(self.database)
        except sqlite3.OperationalError:  # not made yet
            return {}

    def rows(self, table: str, columns: str) -> list[Any]:
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute(f"SELECT {columns} FROM {table} ORDER BY stream, seq").fetchall()


def reading(number: int, *, privacy: Privacy = Privacy.SHARED, expires_ns: int = 0) -> Record:
    event = SensorReading(sensor="s", quantity="count", value=float(number), unit="1")
    return Record(topic="edge.sensors", body=encode_body(event), privacy=privacy, expires_ns=expires_ns)


def arm(system: System, monkeypatch: pytest.MonkeyPatch) -> System:
    """Let *system* crash at the named steps instead of the process."""
    for module in (lanes, ingest, store):
        monkeypatch.setattr(module, "reached", system.reached)
    return system
