"""The two nodes of the demo: `control-pc` at the edge and `primecore` in the cloud, joined by a link on loopback."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sparkd.link.keys import KeyStore
from sparkd.testing.node import Node, free_port

EDGE = """\
[node]
name = "control-pc"
role = "edge"
site = "home"
metrics_listen = "127.0.0.1:{metrics}"

[link.peers.primecore]
address = "127.0.0.1:{link}"
site = "cloud"
send = ["edge", "system"]
receive = ["models"]
calls = ["node.status", "command-runner.run"]

[plugins.node-telemetry]
interval_s = 1.0

[plugins.hailo-inference]
watch = "{watch}"
privacy = "shared"

[plugins.cloud-uplink]
target = "primecore"
commands_allow = ["node.status"]
"""

CLOUD = """\
[node]
name = "primecore"
role = "cloud"
site = "cloud"
metrics_listen = "127.0.0.1:{metrics}"

[link]
listen = "127.0.0.1:{link}"

[link.peers.control-pc]
site = "home"
send = ["models"]
receive = ["edge", "system"]
calls = ["node.status", "ingest.append", "ingest.position"]

[plugins.edge-ingest]

[plugins.stream-sink]
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two nodes, and the folder the edge node watches for pictures."""

    edge: Node
    cloud: Node
    watch: Path

    @property
    def database(self) -> Path:
        """Where the cloud node stores what arrives."""
        return self.cloud.state / "plugins" / "stream-sink" / "sparkd.db"


def prepare(root: Path) -> Pair:
    """Write configs and exchange keys for both nodes beneath *root*."""
    watch = root / "pictures"
    watch.mkdir()
    link = free_port()
    edge = Node("control-pc", root / "e", EDGE.format(metrics=free_port(), link=link, watch=watch)).prepare()
    cloud = Node("primecore", root / "c", CLOUD.format(metrics=free_port(), link=link)).prepare()
    edge_keys, cloud_keys = KeyStore(edge.state / "keys"), KeyStore(cloud.state / "keys")
    edge_public, cloud_public = edge_keys.new(), cloud_keys.new()
    edge_keys.trust("primecore", cloud_public)
    cloud_keys.trust("control-pc", edge_public)
    return Pair(edge, cloud, watch)


@contextmanager
def running(pair: Pair) -> Iterator[Pair]:
    """Run both daemons; stop them at the end."""
    try:
        pair.cloud.start()
        pair.edge.start()
        yield pair
    finally:
        pair.edge.stop()
        pair.cloud.stop()


def arrivals(database: Path) -> list[tuple[str, int, int]]:
    """Return (picture, when it was taken, when its result was stored; ns) of each stored inference result."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
        try:
            return db.execute("SELECT source, source_ns, stored_ns FROM ai_inference_results").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return []


def count_rows(database: Path, table: str) -> int:
    """Return how many rows *table* has."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own table names


def pictures(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Return *count* distinct pictures, each with a name, made from the photographs that ship with the plugin."""
    frames: Iterator[tuple[str, bytes]] = import_module("sparkd_plugins.hailo_inference.demo").frames(
        count=count, seed=seed
    )
    return frames


def drop(folder: Path, name: str, picture: bytes) -> None:
    """Put a picture into a watched folder, whole or not at all."""
    part = folder / f".{name}.part"
    part.write_bytes(picture)
    part.rename(folder / name)
