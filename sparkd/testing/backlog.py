"""A node that was cut off for long: its backlog is written, the cloud comes back, and the draining is watched.

The records are written as the service `node-telemetry` would have written them, through the outbox itself, while the
daemon is stopped: a gigabyte in a minute or two instead of weeks. Then both nodes start, and the edge node's own fresh
telemetry goes beside the backlog. What is watched: whether each record is stored exactly once, how long that takes, how
long fresh records wait meanwhile, and the memory of each process that takes part.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from sparkd.codec import encode_body
from sparkd.config import node_id
from sparkd.errors import CallError
from sparkd.events import Disk, Interface, Telemetry, event_type
from sparkd.outbox import Limits, open_outbox
from sparkd.service import Record
from sparkd.testing.kills import revive
from sparkd.testing.node import Node
from sparkd.testing.pair import Pair, prepare

SERVICE, STREAM, TABLE = "node-telemetry", "events", "device_metrics"
MARK = -1.0
"""The load of each record of a backlog: no machine has it, so fresh records are told apart."""
BATCH = 1000
LOOK_INTERVAL_S = 0.5
WATCHED = (("edge", ""), ("edge", "cloud-uplink"), ("cloud", ""), ("cloud", "edge-ingest"), ("cloud", "stream-sink"))
"""Node, and the service there; nothing for the daemon itself."""


@dataclass
class Backlog:
    """What was written."""

    records: int = 0
    body_bytes: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0


@dataclass
class Memory:
    """The most that one process took, in bytes; of the largest, if it was restarted."""

    peak_pss: int = 0
    peak_rss: int = 0

    def look(self, pid: int) -> None:
        """Take note of what the process takes now. Raises OSError if it is gone."""
        rollup = _kib_table(Path(f"/proc/{pid}/smaps_rollup"))
        status = _kib_table(Path(f"/proc/{pid}/status"))
        self.peak_pss = max(self.peak_pss, rollup.get("Pss", 0))
        self.peak_rss = max(self.peak_rss, status.get("VmHWM", 0))  # the kernel's own peak: no look can miss it


@dataclass
class Drain:
    """What the draining came to."""

    stored: int = 0
    missing: int = 0
    doubled: int = 0
    seconds: float = 0.0
    fresh: int = 0
    """Records written during the draining and stored by its end."""
    fresh_median_s: float = 0.0
    """How long such a record took from its making to the cloud's database; and the longest."""
    fresh_longest_s: float = 0.0
    memory: dict[str, Memory] = field(default_factory=dict)
    """By process, such as `edge cloud-uplink`; a service without a name is the daemon itself."""

    @property
    def exact(self) -> bool:
        """Whether each record is stored exactly once."""
        return not self.missing and not self.doubled


def room(pair: Pair, body_bytes: int, *, segment_bytes: int = 16 << 20) -> None:
    """Let the streams of both nodes hold a backlog of *body_bytes*; call it before they start."""
    outbox = f"\n[outbox]\nmax_bytes = {4 * body_bytes + (64 << 20)}\nsegment_bytes = {segment_bytes}\n"
    for node in (pair.edge, pair.cloud):
        node.config += outbox
        node.prepare()


def write(edge: Node, body_bytes: int, *, segment_bytes: int = 16 << 20) -> Backlog:
    """Append telemetry of *body_bytes* in all to the outbox of *edge*, whose daemon does not run."""
    backlog, begun = Backlog(), time.monotonic()
    anyio.run(_write, edge, body_bytes, segment_bytes, backlog)
    backlog.seconds = time.monotonic() - begun
    backlog.disk_bytes = sum(file.stat().st_size for file in (edge.state / "outbox").rglob("*") if file.is_file())
    return backlog


async def _write(edge: Node, body_bytes: int, segment_bytes: int, backlog: Backlog) -> None:
    limits = Limits(max_bytes=4 * body_bytes + (64 << 20), segment_bytes=segment_bytes)
    outbox = open_outbox(edge.state / "outbox", node_id=node_id(edge.state), service=SERVICE, limits=limits)
    declared = event_type(Telemetry)
    async with outbox.writer(STREAM) as writer:
        while backlog.body_bytes < body_bytes:
            bodies = [encode_body(sample(backlog.records + index)) for index in range(BATCH)]
            now, mono = time.time_ns(), time.monotonic_ns()
            await writer.append(
                [
                    Record(topic=declared.topic, body=body, privacy=declared.privacy, wall_ns=now, mono_ns=mono)
                    for body in bodies
                ]
            )
            backlog.records += BATCH
            backlog.body_bytes += sum(map(len, bodies))


def sample(number: int) -> Telemetry:
    """Return the record *number* of a backlog: of the size that a Pi with a NAS and a VPN makes."""
    network = ("eth0", "wlan0", "wg0")
    return Telemetry(
        cpu_percent=number % 100,
        cpu_percent_each=[float(number % 100), 12.5, 3.1, 0.4],
        cpu_mhz=2400.0,
        load_1min=MARK,
        memory_total_bytes=8 << 30,
        memory_available_bytes=5 << 30,
        swap_used_bytes=number,
        uptime_s=10.0 * number,
        temperatures_c={"cpu-thermal": 48.3, "nvme Composite": 39.9, "rp1_adc temp1": 45.1},
        disks=[
            Disk(mount=mount, total_bytes=128 << 30, used_bytes=number << 12, free_bytes=64 << 30)
            for mount in ("/", "/boot/firmware", "/mnt/nas")
        ],
        interfaces=[
            Interface(name=name, up=True, sent_bytes=number << 8, received_bytes=number << 9, errors=0, drops=0)
            for name in network
        ],
    )


def drain(pair: Pair, backlog: Backlog, *, limit_s: float) -> Drain:
    """Start *pair*, wait until it has stored *backlog*, for *limit_s* at the most, and stop it; return how it went."""
    outcome = Drain(memory={f"{node} {service}".strip(): Memory() for node, service in WATCHED})
    try:
        pair.cloud.start()
        begun = time.monotonic()
        pair.edge.start(ready=False)
        while time.monotonic() < begun + limit_s:
            _look(pair, outcome.memory)
            if _rows(pair.database) >= backlog.records and _count(pair.database)[0] >= backlog.records:
                break
            time.sleep(LOOK_INTERVAL_S)  # noqa: TID251 - watches other processes' work from outside
            revive(pair.edge)
            revive(pair.cloud)
        outcome.seconds = time.monotonic() - begun
    finally:
        pair.edge.stop()
        pair.cloud.stop()
    _tally(outcome, pair.database, backlog)
    return outcome


def _tally(outcome: Drain, database: Path, backlog: Backlog) -> None:
    outcome.stored, distinct = _count(database)
    outcome.missing, outcome.doubled = backlog.records - distinct, outcome.stored - distinct
    delays = _fresh_delays_s(database)
    if delays:
        outcome.fresh = len(delays)
        outcome.fresh_median_s, outcome.fresh_longest_s = statistics.median(delays), max(delays)


def at_step(root: Path, side: str, step: str, *, body_bytes: int = 3_000_000) -> Drain:
    """Run a pair beneath *root* of which one, *side*, dies at *step* while a small backlog in small segments drains.

    Raises RuntimeError if the step was never reached.
    """
    pair, flag, segment_bytes = prepare(root), root / "crashed", 1 << 18
    node = pair.edge if side == "edge" else pair.cloud
    node.environment = {"SPARKD_CRASH_AT": f"{step}:1:{flag}"}
    room(pair, body_bytes, segment_bytes=segment_bytes)
    written = write(pair.edge, body_bytes, segment_bytes=segment_bytes)
    outcome = drain(pair, written, limit_s=90)
    if not flag.exists():
        raise RuntimeError(f"{step} was never reached")
    return outcome


def _look(pair: Pair, memory: dict[str, Memory]) -> None:
    for side, node in (("edge", pair.edge), ("cloud", pair.cloud)):
        pids = _pids(node)
        for service in (service for where, service in WATCHED if where == side):
            pid = pids.get(service)
            if pid is not None:
                try:
                    memory[f"{side} {service}".strip()].look(pid)
                except OSError:  # gone since it was listed
                    continue


def _pids(node: Node) -> dict[str, int]:
    """Return the processes of *node* by service; the daemon's own under an empty name."""
    try:
        services: list[dict[str, Any]] = node.call("node.status", timeout_s=5.0)["services"]
    except (OSError, CallError):  # it is just being killed, or starting
        services = []
    found = {service["name"]: service["pid"] for service in services if service["pid"]}
    return found | ({"": node.process.pid} if node.process else {})


def _kib_table(file: Path) -> dict[str, int]:
    """Return in bytes the lines of *file* that are in kB."""
    rows = (line.split() for line in file.read_text(encoding="ascii", errors="replace").splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1:] == ["kB"]}


def _rows(database: Path) -> int:
    """Return about how many rows there are, without reading them all."""
    return int(_ask(database, f"SELECT max(rowid) FROM {TABLE}")[0][0] or 0)  # noqa: S608 - our own table


def _count(database: Path) -> tuple[int, int]:
    """Return how many records of the backlog are stored, and how many different ones."""
    query = f"SELECT count(*), count(DISTINCT swap_used_bytes) FROM {TABLE} WHERE load_1min = ?"  # noqa: S608 - as above
    stored, distinct = _ask(database, query, MARK)[0]
    return stored or 0, distinct or 0


def _fresh_delays_s(database: Path) -> list[float]:
    query = f"SELECT stored_ns - wall_ns FROM {TABLE} WHERE load_1min <> ?"  # noqa: S608 - as above
    return [row[0] / 1e9 for row in _ask(database, query, MARK) if row[0] is not None]


def _ask(database: Path, query: str, *values: float) -> list[tuple[Any, ...]]:
    """Return the rows of *query*; one of nothing while the database is not there yet."""
    if not database.exists():
        return [(None, None)]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as db:
        try:
            return db.execute(query, values).fetchall()
        except sqlite3.OperationalError:  # its tables are not made yet
            return [(None, None)]
