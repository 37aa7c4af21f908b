"""The small parts: lanes that are bounded, complaints that do not repeat, back-off that grows."""

from __future__ import annotations

from collections.abc import Sequence

from sparkd.link import Timing
from sparkd.link.complaints import MAX_KINDS, QUIET_S, Complaints, Counts
from sparkd.link.dialer import Backoff
from sparkd.link.queues import BoundedQueue, Lanes
from tests.link.link_rig import Happenings, LoggedLines


class SlowPeer:
    """Takes *room* messages, then none."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[bytes] = []

    def send(self, frames: Sequence[bytes]) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.taken.append(frames[0])
        return True


def test_a_queue_is_bounded_in_number_and_in_bytes_but_takes_one_of_any_size() -> None:
    queue: BoundedQueue[str] = BoundedQueue(max_items=2, max_bytes=10)

    assert queue.push("huge", 100)
    assert not queue.push("more", 1)
    assert queue.pop() == "huge"
    assert [queue.push(item, 4) for item in "abc"] == [True, True, False]
    assert (queue.first(), len(queue)) == ("a", 2)


def test_calls_overtake_events_and_nothing_overtakes_its_like() -> None:
    peer = SlowPeer(1)
    lanes = Lanes(peer.send, max_items=2, max_bytes=100)
    taken = [lanes.event([b"e1"]), lanes.event([b"e2"]), lanes.call([b"c1"]), lanes.call([b"c2"]), lanes.call([b"c3"])]
    peer.room = 9
    lanes.flush()

    assert taken == [True, True, True, True, False]
    assert peer.taken == [b"e1", b"c1", b"c2", b"e2"]


def test_a_flush_stops_where_the_peer_has_no_room() -> None:
    peer = SlowPeer(0)
    lanes = Lanes(peer.send, max_items=5, max_bytes=100)
    lanes.event([b"e1"])
    lanes.call([b"c1"])
    peer.room = 1
    lanes.flush()

    assert peer.taken == [b"c1"]


def test_each_complaint_about_each_culprit_is_said_once_a_minute_with_the_number_kept_back() -> None:
    log, now = LoggedLines(Happenings()), [0.0]
    complaints = Complaints(log, clock=lambda: now[0])
    for _ in range(5):
        complaints.say("bad", culprit="a")
    complaints.say("bad", culprit="b")
    complaints.say("worse", culprit="a")
    now[0] = QUIET_S
    complaints.say("bad", culprit="a")

    assert [(event, fields) for _, event, fields in log.lines] == [
        ("bad", {}),
        ("bad", {}),
        ("worse", {}),
        ("bad", {"more_before": 4}),
    ]


def test_counts_are_bounded_in_kinds() -> None:
    counts = Counts()
    for kind in range(MAX_KINDS + 10):
        counts.add(str(kind))
    counts.add("0")

    assert counts.plain()["other"] == 10
    assert counts.plain()["0"] == 2


def test_back_off_starts_small_after_a_connection_grows_and_starts_over() -> None:
    timing = Timing()
    backoff = Backoff(timing)
    waits = [backoff.next_s(refused=False) for _ in range(12)]
    backoff.reset()

    assert waits[0] <= 0.15
    assert all(wait <= timing.retry_max_s for wait in waits)
    assert waits[-1] >= timing.retry_max_s / 2
    assert backoff.next_s(refused=False) <= 0.15


def test_a_refusal_is_waited_out_for_a_minute_at_the_most() -> None:
    backoff = Backoff(Timing())
    waits = [backoff.next_s(refused=True) for _ in range(12)]

    assert 0.5 <= waits[0] <= 1
    assert 30 <= waits[-1] <= 60
