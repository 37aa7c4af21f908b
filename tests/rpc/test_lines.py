from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparkd.rpc.lines import Lines


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_lines_do_not_depend_on_how_they_arrive(texts: list[bytes], size: int) -> None:
    whole = b"\n".join(texts)
    lines = Lines(1000)

    got = [line for at in range(0, len(whole), size) for line in lines.feed(whole[at : at + size])]

    *ended, rest = whole.split(b"\n")
    assert got == [line for line in ended if line.strip()]
    assert lines.partial is bool(rest)


def test_a_long_line_is_reported_once_before_its_end_and_skipped() -> None:
    lines = Lines(10)

    assert lines.feed(b"12345678901") == [None]
    assert lines.partial
    assert lines.feed(b"more" * 1000) == []
    assert lines.feed(b"end\nnext\n") == [b"next"]
    assert not lines.partial
    assert lines.feed(b"1234567890\n") == [b"1234567890"]
    assert lines.feed(b"12345678901\n12\n") == [None, b"12"]
