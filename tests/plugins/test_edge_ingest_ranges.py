"""Ranges of settled numbers, against a plain set."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sparkd_plugins.edge_ingest import ranges

STEPS = st.lists(st.tuples(st.integers(1, 60), st.integers(-2, 20), st.sets(st.integers(1, 80), max_size=4)))


@given(steps=STEPS)
def test_ranges_are_a_set_of_numbers(steps: list[tuple[int, int, set[int]]]) -> None:
    have: ranges.Ranges = ()
    model: set[int] = set()

    for first, length, holes in steps:
        last = first + length
        inside = {hole for hole in holes if first <= hole <= last}
        have = ranges.add_except(have, first, last, inside)
        model |= set(range(first, last + 1)) - inside

    assert {n for low, high in have for n in range(low, high + 1)} == model
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(have))
    for number in range(90):
        assert ranges.holds(have, number) is (number in model)
        end = ranges.end_of(have, number)
        assert set(range(number, end + 1)) <= model
        assert end + 1 not in model
    assert ranges.from_bytes(ranges.to_bytes(have)) == have


def test_history_joins_what_overtook_it() -> None:
    have = ranges.add(ranges.add((), 1, 10), 101, 120)

    assert have == ((1, 10), (101, 120))
    assert ranges.add(have, 11, 100) == ((1, 120),)


def test_no_mark_is_no_ranges() -> None:
    assert ranges.from_bytes(None) == ()
