"""What did not arrive, counted by number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparkd.bus.gaps import MAX_SENDERS, GapCounter
from sparkd.codec import Header
from sparkd.privacy import Privacy


def header(seq: int, *, epoch: int = 1, service: str = "s", node: str = "n") -> Header:
    return Header(1, node, service, seq, 0, epoch, 0, Privacy.LOCAL)


@given(st.sets(st.integers(0, 199), max_size=200), st.integers(1, 1000))
def test_every_event_that_is_dropped_is_counted_once(dropped: set[int], first: int) -> None:
    gaps, sent = GapCounter(), range(first, first + 200)
    gaps.saw("t", header(first - 1))
    for seq in sent:
        if seq - first not in dropped:
            gaps.saw("t", header(seq))
    gaps.tails(header(1), {"t": sent[-1]})
    gaps.tails(header(1), {"t": sent[-1]})

    assert gaps.lost == len(dropped)


def test_what_was_sent_before_the_first_sign_is_not_counted() -> None:
    gaps = GapCounter()
    gaps.saw("seen", header(500))
    gaps.tails(header(1), {"told": 700})

    assert gaps.lost == 0
    gaps.saw("told", header(703))
    assert gaps.lost == 2


def test_each_sender_topic_and_life_counts_by_itself() -> None:
    gaps = GapCounter()
    for seq in (1, 2, 3):
        for other in (header(seq), header(seq, epoch=2), header(seq, service="z"), header(seq, node="m")):
            gaps.saw("t", other)
            gaps.saw("u", other)
    assert gaps.lost == 0

    gaps.saw("t", header(10, epoch=2))
    assert gaps.lost == 6


def test_two_lives_of_one_service_do_not_hide_each_others_gaps() -> None:
    """One that stops and one that starts in its place overlap for a moment."""
    gaps = GapCounter()
    for seq in (1, 3, 5):
        gaps.saw("t", header(seq, epoch=1))
        gaps.saw("t", header(seq, epoch=2))

    assert gaps.lost == 4


def test_late_and_repeated_events_are_not_counted_twice() -> None:
    gaps = GapCounter()
    for seq in (1, 4, 2, 3, 4, 5):
        gaps.saw("t", header(seq))

    assert gaps.lost == 2


def test_a_sender_that_makes_up_names_fills_no_memory_and_stops_no_counting() -> None:
    gaps = GapCounter()
    for n in range(MAX_SENDERS + 100):
        gaps.saw("t", header(1, service=f"s{n}"))
    gaps.saw("t", header(1, service="new"))
    gaps.saw("t", header(4, service="new"))

    assert len(gaps._last) == MAX_SENDERS
    assert gaps.lost == 2
