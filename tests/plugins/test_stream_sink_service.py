"""The sink as a service: dead letters, a damaged or full database, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sparkd import CallError, Ingested, OutboxWriter, Privacy, Record, StorageError, Store, encode_body
from sparkd_plugins.stream_sink.settings import StreamSinkConfig
from sparkd_plugins.stream_sink.store import Database
from tests.plugins.delivery import EDGE_ID, System, arm, reading

pytestmark = pytest.mark.anyio


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return arm(System(tmp_path), monkeypatch)


def ingested(seq: int, body: bytes | None = None) -> Record:
    origin = Ingested(
        node="edge",
        node_id=EDGE_ID,
        service="s",
        stream="events",
        epoch=7,
        seq=seq,
        topic="edge.sensors",
        body=reading(seq).body if body is None else body,
        privacy=Privacy.SHARED,
        wall_ns=1,
        arrival_ns=2,
    )
    return Record(topic="sparkd.ingested", body=encode_body(origin), privacy=Privacy.SHARED)


async def take(system: System, records: Sequence[Record]) -> None:
    async with system.outbox("cloud", "edge-ingest").writer("ingest") as writer:
        assert isinstance(writer, OutboxWriter)
        await writer.append(records)


def store_of(system: System) -> Store:
    return system.contexts["stream-sink"].call(Store)


async def test_it_starts_before_there_is_anything_to_read_and_counts_nothing(system: System) -> None:
    async with system.running("stream-sink"):
        assert set((await store_of(system).counts()).values()) == {0}
        assert await store_of(system).positions() == {}
        await take(system, [ingested(1), ingested(2)])
        await system.stored(2)

        assert (await store_of(system).counts())["sensor_data"] == 2
        assert await store_of(system).positions() == {"edge/s/events": 2}


async def test_a_body_that_is_no_event_is_a_dead_letter_and_the_rest_goes_on(system: System) -> None:
    broken = [ingested(1, b"\xc1"), Record(topic="sparkd.ingested", body=b"junk", privacy=Privacy.SHARED)]
    async with system.running("stream-sink"):
        await take(system, [*broken, ingested(2)])
        await system.stored(1)

    lines = system.contexts["stream-sink"].log.lines
    assert [fields["seq"] for _, event, fields in lines if event == "dead letter"] == [1, 2]


async def test_a_record_that_is_stored_twice_before_us_is_one_row_and_told(system: System) -> None:
    async with system.running("stream-sink"):
        await take(system, [ingested(1), ingested(1)])
        await system.stored(2)  # the row, and the note that it came twice

        counts = await store_of(system).counts()
    assert (counts["sensor_data"], counts["doubled"]) == (1, 1)


async def test_it_goes_on_from_its_own_position_not_from_the_cursor(system: System) -> None:
    system.crash_at, system.crash_left = "sink.after-commit", 1
    await take(system, [ingested(1), ingested(2)])
    async with system.running("stream-sink"):
        await take(system, [ingested(3)])
        await system.stored(3)

        assert (await store_of(system).counts())["doubled"] == 0
    assert system.crashes == 1


async def test_a_damaged_database_is_moved_aside_and_named(system: System) -> None:
    async with system.running("stream-sink"):
        for seq in (1, 2):  # once the second is written, the cursor has passed the first
            await take(system, [ingested(seq)])
            await system.stored(seq)
    system.database.write_bytes(b"this is not a database, whatever it was before" * 100)
    await take(system, [ingested(3)])

    async with system.running("stream-sink"):
        await system.stored(1)

    assert system.rows("sensor_data", "seq") in ([(3,)], [(2,), (3,)])
    errors = {event: fields for level, event, fields in system.contexts["stream-sink"].log.lines if level == "error"}
    aside = Path(str(errors["database is damaged; moved aside, a fresh one is begun"]["aside"]))
    assert aside.exists()
    assert errors["database is behind the outbox: rows in between are not in it"]["has"] == 0


async def test_a_full_disk_is_a_state_and_passes(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    write, refusals = Database.write, iter([StorageError("database or disk is full")] * 2)

    def refuse_first(database: Database, *args: Any, **more: Any) -> int:
        for error in refusals:
            raise error
        return write(database, *args, **more)

    monkeypatch.setattr(Database, "write", refuse_first)
    async with system.running("stream-sink"):
        await take(system, [ingested(1)])
        await system.stored(1)
        await take(system, [ingested(2)])
        await system.stored(2)

    first, second, last = system.contexts["stream-sink"].states
    assert first == second
    assert "disk is full" in first
    assert "free space" in first
    assert last == "recovered"


async def test_a_database_that_cannot_be_read_is_unavailable(system: System) -> None:
    async with system.running("stream-sink"):
        system.database.unlink()
        with pytest.raises(CallError, match="unavailable"):
            await store_of(system).counts()


@pytest.mark.parametrize(("key", "value"), [("max_batch_records", 0), ("retry_least_s", -1.0), ("retry_most_s", 0.1)])
def test_a_config_that_cannot_work_names_the_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        StreamSinkConfig(**{key: value})  # type: ignore[arg-type]


def test_the_database_may_stand_elsewhere(tmp_path: Path) -> None:
    assert StreamSinkConfig().database(tmp_path) == tmp_path / "sparkd.db"
    assert StreamSinkConfig(path="/data/x.db").database(tmp_path) == Path("/data/x.db")
