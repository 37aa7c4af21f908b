"""The sink's database: rows and position together, each row once, damage told from a full disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sparkd import Ingested, Privacy, StorageError, StreamId, Telemetry, encode_body
from sparkd_plugins.stream_sink.policy import Row, row_of
from sparkd_plugins.stream_sink.store import DamagedError, Database, count_rows, origin_positions, set_aside

HERE = StreamId("f" * 32, "edge-ingest", "ingest", 2**64 - 1)
BODY = encode_body(
    Telemetry(cpu_percent=float("nan"), load_1min=0, memory_total_bytes=1, memory_available_bytes=1, uptime_s=1)
)


def row(seq: int, *, stream: str = "events") -> Row:
    origin = Ingested(
        node="control-pc",
        node_id="0" * 32,
        service="node-telemetry",
        stream=stream,
        epoch=2**63,
        seq=seq,
        topic="edge.telemetry",
        body=BODY,
        privacy=Privacy.SHARED,
        wall_ns=1,
        arrival_ns=2,
    )
    return row_of(encode_body(origin))


def test_rows_and_position_are_written_together(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sparkd.db"
    with closing(Database.open(path)) as database:
        assert database.position(HERE) == 0
        assert database.write([row(1), row(2)], stream=HERE, through=9) == 0

    with closing(Database.open(path)) as database:
        assert database.position(HERE) == 9
        assert database.position(StreamId(HERE.node_id, HERE.service, HERE.stream, 1)) == 0
    assert count_rows(path)["device_metrics"] == 2
    assert origin_positions(path) == {"control-pc/node-telemetry/events": 2}


def test_a_row_that_comes_twice_is_kept_once_and_told(tmp_path: Path) -> None:
    path = tmp_path / "sparkd.db"
    with closing(Database.open(path)) as database:
        database.write([row(1), row(2)], stream=HERE, through=2)

        assert database.write([row(2), row(3), row(2, stream="other")], stream=HERE, through=3) == 1

    counts = count_rows(path)
    assert counts["device_metrics"] == 4
    assert counts["doubled"] == 1


def test_the_position_never_goes_back(tmp_path: Path) -> None:
    with closing(Database.open(tmp_path / "sparkd.db")) as database:
        database.write([], stream=HERE, through=9)
        database.write([], stream=HERE, through=5)

        assert database.position(HERE) == 9


def test_a_full_database_refuses_whole_batches(tmp_path: Path) -> None:
    path = tmp_path / "sparkd.db"
    with closing(Database.open(path)) as database:
        database.write([row(1)], stream=HERE, through=1)
        limit = database._connection.execute("PRAGMA page_count").fetchone()[0]
        database._connection.execute(f"PRAGMA max_page_count={limit}")

        with pytest.raises(StorageError, match="full"):
            database.write([row(n) for n in range(2, 2000)], stream=HERE, through=1999)

        assert database.position(HERE) == 1
        database._connection.execute("PRAGMA max_page_count=1000000")
        database.write([row(2)], stream=HERE, through=2)
    assert count_rows(path)["device_metrics"] == 2


@pytest.mark.parametrize("content", [b"not a database, but a text that is long enough to have a header" * 20])
def test_damage_is_told_and_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sparkd.db"
    path.write_bytes(content)

    with pytest.raises(DamagedError):
        Database.open(path)
    aside = set_aside(path)

    assert aside.read_bytes() == content
    Database.open(path).close()


def test_a_damaged_page_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "sparkd.db"
    with closing(Database.open(path)) as database:
        database.write([row(n) for n in range(1000)], stream=HERE, through=1000)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    with pytest.raises(DamagedError), closing(Database.open(path)) as database:
        database.write([row(n) for n in range(1000, 2000)], stream=HERE, through=2000)


def test_reading_does_not_wait_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "sparkd.db"
    with closing(Database.open(path)) as database:
        database._connection.execute("BEGIN IMMEDIATE")

        assert sum(count_rows(path).values()) == 0
    with pytest.raises(sqlite3.OperationalError):
        count_rows(tmp_path / "nothing.db")
