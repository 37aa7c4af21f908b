"""The record of what has been dealt with: durable, bounded, and no obstacle when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd import StorageError
from sparkd_plugins.hailo_inference.processed import Entry, Processed


def test_what_is_remembered_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "processed.sqlite"
    with Processed(path) as record:
        record.remember("k1", "a.jpg", "1:2:3")
        record.remember("k2", "b.jpg", "4:5:6", problem="no picture")

    with Processed(path) as record:
        assert record.find("k1") == Entry("k1", "")
        assert record.find_unchanged("b.jpg", "4:5:6") == Entry("k2", "no picture")
        assert record.find_unchanged("b.jpg", "4:5:7") is None
        assert record.find("k3") is None


def test_the_same_picture_again_only_renews_its_stamp(tmp_path: Path) -> None:
    with Processed(tmp_path / "p.sqlite") as record:
        record.remember("k", "a.jpg", "1:1:1", problem="bad")
        record.remember("k", "a.jpg", "2:2:2")

        assert record.find_unchanged("a.jpg", "2:2:2") == Entry("k", "bad")
        assert record.find_unchanged("a.jpg", "1:1:1") is None


def test_names_that_are_no_text_are_remembered_too(tmp_path: Path) -> None:
    with Processed(tmp_path / "p.sqlite") as record:
        record.remember("k", "caf\udce9.jpg", "1:1:1")

        assert record.find_unchanged("caf\udce9.jpg", "1:1:1") == Entry("k", "")


def test_only_old_rows_of_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "2.jpg").touch()
    with Processed(tmp_path / "p.sqlite") as record:
        for number in range(10):
            record.remember(f"k{number}", f"{number}.jpg", "s")

        assert record.forget_gone(tmp_path, remembered=4) == 5
        assert [number for number in range(10) if record.find(f"k{number}")] == [2, 6, 7, 8, 9]
        assert record.forget_gone(tmp_path, remembered=4) == 0


@pytest.mark.parametrize("junk", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_record_is_put_aside(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "p.sqlite"
    path.write_bytes(junk)

    with Processed(path) as record:
        assert record.damaged is not None
        assert record.damaged.read_bytes() == junk
        record.remember("k", "a.jpg", "1:1:1")
        assert record.find("k")


def test_beginnings_are_counted_until_another_picture_begins(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with Processed(path) as record:
        assert [record.begin("a"), record.begin("a")] == [0, 1]
    with Processed(path) as record:
        assert [record.begin("a"), record.begin("b"), record.begin("a")] == [2, 0, 0]


@pytest.mark.parametrize("torn", ["", "a", "a x", "\xff"])
def test_a_torn_note_counts_as_none(tmp_path: Path, torn: str) -> None:
    with Processed(tmp_path / "p.sqlite") as record:
        (tmp_path / "p.begun").write_text(torn)

        assert record.begin("a") == 0


def test_damage_in_the_middle_is_noticed_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "p.sqlite"
    with Processed(path) as record:
        fill(record)
    content = bytearray(path.read_bytes())
    content[40_000:60_000] = bytes(20_000)
    path.write_bytes(content)

    with Processed(path) as record:
        assert record.damaged is not None
        assert record.find("key-1") is None


def fill(record: Processed) -> None:
    for number in range(2000):
        record.remember(f"key-{number}", f"{number}.jpg", "stamp")


def test_a_disk_that_refuses_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open database file"):
        Processed(tmp_path / "missing" / "p.sqlite")

    with Processed(tmp_path / "p.sqlite") as record:
        record._db.execute("PRAGMA max_page_count = 1")  # the disk is full
        with pytest.raises(StorageError, match="full"):
            fill(record)
        assert record.find("key-0") == Entry("key-0", "")
    with Processed(tmp_path / "p.sqlite") as record:
        assert record.damaged is None
