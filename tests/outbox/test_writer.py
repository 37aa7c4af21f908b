"""A writer that is closed while it is used."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from sparkd.errors import StorageError
from sparkd.outbox import open_outbox
from sparkd.privacy import Privacy
from sparkd.service import Record

pytestmark = pytest.mark.anyio


def record(n: int) -> Record:
    return Record(topic="test.kept", body=b"x" * n, privacy=Privacy.LOCAL)


async def test_closing_waits_for_the_commit_under_way_and_later_appends_are_refused(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, node_id="0" * 32, service="s")
    stored: list[int] = []
    refused: list[str] = []

    async def append() -> None:
        try:
            while True:
                stored.extend(await writer.append([record(100)] * 50))
        except StorageError as error:
            refused.append(str(error))

    for _ in range(5):
        async with anyio.create_task_group() as tasks, outbox.writer("events") as writer:
            for _ in range(4):
                tasks.start_soon(append)
            before = len(stored)
            while len(stored) < before + 200:
                await anyio.lowlevel.checkpoint()
    assert refused == ["s/events: the writer is closed"] * 20
    async with outbox.reader("s", "events", name="r") as reader:
        found = await reader.read(max_records=10**6, max_bytes=1 << 30)
    assert [one.seq for one in found] == sorted(stored) == list(range(1, len(stored) + 1))
