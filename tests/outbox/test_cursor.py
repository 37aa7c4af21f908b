"""A cursor: where it says a reader is, whatever of its last write reached the disk."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.outbox.cursor import SLOT_BYTES, SLOTS, Cursor, decode_slots, encode_slot, read_cursor

SEQ = st.integers(min_value=1, max_value=2**63 - 1)
STEPS = st.lists(st.integers(min_value=1, max_value=2**40), min_size=1, max_size=8)
SLOT = len(encode_slot(1, 1))


def written(steps: list[int]) -> tuple[bytes, bytes, int, int]:
    """Return the file before and after the last of *steps*, and the two positions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cursors" / "r"
        with closing(Cursor(path)) as cursor:
            for step in steps[:-1]:
                cursor.advance(cursor.seq + step)
            before, position = path.read_bytes(), cursor.seq
            cursor.advance(cursor.seq + steps[-1])
            return before, path.read_bytes(), position, cursor.seq


@given(STEPS, st.integers(min_value=0, max_value=SLOT))
def test_a_write_torn_at_any_byte_leaves_one_of_both_positions(steps: list[int], kept: int) -> None:
    before, after, old, new = written(steps)
    begin = next((n for n in range(len(after)) if before[n] != after[n]), 0) // SLOT_BYTES * SLOT_BYTES
    torn = before[:begin] + after[begin : begin + kept] + before[begin + kept :]

    assert decode_slots(torn)[1] == (new if torn == after else old)


@given(STEPS, st.binary(min_size=SLOT_BYTES, max_size=SLOT_BYTES))
def test_garbage_in_the_slot_that_was_written_leaves_the_position_before(steps: list[int], garbage: bytes) -> None:
    before, after, old, _ = written(steps)
    begin = next((n for n in range(len(after)) if before[n] != after[n]), 0) // SLOT_BYTES * SLOT_BYTES

    assert decode_slots(before[:begin] + garbage + before[begin + SLOT_BYTES :])[1] == old


@given(st.binary(max_size=3 * SLOT_BYTES))
def test_garbage_is_the_beginning_of_the_stream(content: bytes) -> None:
    assert decode_slots(content) == (0, 0)


@given(SEQ, st.integers(min_value=SLOT, max_value=SLOTS * SLOT_BYTES))
def test_a_file_that_is_cut_short_keeps_the_slot_it_has(seq: int, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cursors" / "r"
        path.parent.mkdir()
        path.write_bytes(encode_slot(2, seq).ljust(SLOTS * SLOT_BYTES, b"\0")[:size])
        with closing(Cursor(path)) as cursor:
            assert cursor.seq == read_cursor(path) == seq
            assert path.stat().st_size == SLOTS * SLOT_BYTES


@given(STEPS)
def test_what_is_written_is_read_and_never_goes_back(steps: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cursors" / "r"
        with closing(Cursor(path)) as cursor:
            for step in steps:
                cursor.advance(cursor.seq + step)
                cursor.advance(cursor.seq - 1)
                assert read_cursor(path) == cursor.seq
        with closing(Cursor(path)) as cursor:
            assert cursor.seq == sum(steps)


def test_a_write_that_fails_is_repeated_in_the_same_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    path = tmp_path / "cursors" / "r"
    with closing(Cursor(path)) as cursor:
        cursor.advance(1)
        safe = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            for seq in (2, 3):
                with pytest.raises(OSError, match="broken"):
                    cursor.advance(seq)
        assert path.read_bytes()[SLOT_BYTES:] == safe[SLOT_BYTES:]  # the slot that holds 1
        cursor.advance(4)
        assert read_cursor(path) == 4
