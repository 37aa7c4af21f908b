"""Which sequence numbers of a stream are settled: a few ranges, inclusive, in order, never touching each other.

In order delivery keeps one range. Fresh records that overtake history make a second, which the history then reaches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from sparkd import decode_body, encode_body

Ranges = tuple[tuple[int, int], ...]


def add(ranges: Ranges, first: int, last: int) -> Ranges:
    """Return *ranges* with *first* to *last* settled too; nothing changes if *last* is before *first*."""
    if last < first:
        return ranges
    apart = [(low, high) for low, high in ranges if high < first - 1 or low > last + 1]
    joined = [(low, high) for low, high in ranges if not (high < first - 1 or low > last + 1)]
    merged = (min([first, *(low for low, _ in joined)]), max([last, *(high for _, high in joined)]))
    return tuple(sorted([*apart, merged]))


def add_except(ranges: Ranges, first: int, last: int, holes: Iterable[int]) -> Ranges:
    """Return *ranges* with *first* to *last* settled too, but for the numbers in *holes* that were not before."""
    for hole in sorted(holes):
        ranges = add(ranges, first, hole - 1)
        first = hole + 1
    return add(ranges, first, last)


def holds(ranges: Ranges, number: int) -> bool:
    """Whether *number* is settled."""
    return number <= end_of(ranges, number)


def end_of(ranges: Ranges, number: int) -> int:
    """Return the last number of the range that *number* is in; `number - 1` if it is in none."""
    index = bisect_right(ranges, number, key=lambda pair: pair[0]) - 1
    return ranges[index][1] if index >= 0 and ranges[index][1] >= number else number - 1


def from_bytes(mark: bytes | None) -> Ranges:
    """Return the ranges in *mark*; none if there is no mark."""
    if mark is None:
        return ()
    ranges: Ranges = decode_body(tuple[tuple[int, int], ...], mark)
    return ranges


def to_bytes(ranges: Sequence[tuple[int, int]]) -> bytes:
    """Return *ranges* as the bytes of a mark."""
    return encode_body(ranges)
