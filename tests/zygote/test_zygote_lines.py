from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd.zygote.lines import CUT, Lines


def collect(chunks: list[bytes], *, max_bytes: int = 8) -> list[str]:
    lines = Lines(max_bytes=max_bytes)
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    return [*found, *lines.flush()]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], []),
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b", b"\n", b"c"], ["ab", "c"]),
        ([b"\n\n"], ["", ""]),
        ([b"a\r\n"], ["a"]),
        ([b"12345678\n"], ["12345678"]),
        ([b"123456789\nx\n"], ["12345678" + CUT, "x"]),
        ([b"1234567", b"89", b"0123", b"45\nx"], ["12345678" + CUT, "x"]),
        ([b"\xff\n"], ["\\xff"]),
        ([b"\xc3", b"\xa4\n"], ["ä"]),
    ],
)
def test_lines(chunks: list[bytes], expected: list[str]) -> None:
    assert collect(chunks) == expected


@given(text=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_where_the_chunks_are_cut_makes_no_difference(text: bytes, cuts: list[int]) -> None:
    edges = sorted({0, *cuts, len(text)})
    chunks = [text[start:end] for start, end in itertools.pairwise(edges)]

    assert collect(chunks) == collect([text])


def test_an_endless_line_takes_bounded_memory() -> None:
    lines = Lines(max_bytes=8)
    for _ in range(1000):
        list(lines.feed(b"x" * 1000))

    assert len(lines._partial) <= 9
