"""What an operator can do to a stream from outside: try dead letters again, forget a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd import Privacy, Record, StorageError
from sparkd.outbox import Limits, dead_letters, forget_reader, inspect, retry_dead
from tests.outbox.disk import box, records

pytestmark = pytest.mark.anyio

SMALL = Limits(segment_bytes=1 << 18)


@pytest.mark.parametrize("writing", [True, False])
async def test_a_dead_letter_is_appended_again_under_a_new_number(tmp_path: Path, *, writing: bool) -> None:
    node = box(tmp_path)
    keyed = Record(topic="t", body=b"again", key="k", privacy=Privacy.NODE)
    async with node.writer("e") as writer, node.reader("s", "e", name="r") as reader:
        await writer.append([keyed, *records(1)])
        (stored,) = await reader.read(max_records=1, max_bytes=1)
        await reader.reject(stored, "no")
        await reader.advance(2)
        if writing:
            assert retry_dead(tmp_path, "s", "e", [1, 5]) == 1
            await writer.append(records(1))
    if not writing:
        assert retry_dead(tmp_path, "s", "e", [1, 5]) == 1

    async with node.reader("s", "e", name="r") as reader:
        found = await reader.read(max_records=10, max_bytes=1000)
    (again,) = [stored for stored in found if stored.record.body == b"again"]
    assert again.seq > 2
    assert again.record.privacy is Privacy.NODE
    assert dead_letters(tmp_path, "s", "e") == []


async def test_a_reader_that_is_forgotten_holds_nothing_back(tmp_path: Path) -> None:
    node = box(tmp_path, SMALL)
    async with node.writer("e") as writer:
        async with node.reader("s", "e", name="gone"), node.reader("s", "e", name="here") as reader:
            await writer.append(records(600, size=1000))
            await writer.append(records(1))
            await reader.advance(600)
        assert inspect(tmp_path)[0].first_seq == 1
        forget_reader(tmp_path, "s", "e", "gone")
        assert inspect(tmp_path)[0].first_seq == 601
        assert [status.name for status in inspect(tmp_path)[0].readers] == ["here"]


async def test_a_reader_that_is_not_there_cannot_be_forgotten(tmp_path: Path) -> None:
    async with box(tmp_path).writer("e"):
        with pytest.raises(StorageError, match="no reader"):
            forget_reader(tmp_path, "s", "e", "../lock")
