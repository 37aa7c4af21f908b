"""What did not arrive: gaps in the senders' sequence numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sparkd.codec import Header

MAX_SENDERS = 10_000
"""Sequences remembered; more come only from a sender that makes up names, or from one that starts again for ever."""


class GapCounter:
    """Counts the events of each (node, service, topic, epoch) that were sent and did not come."""

    __slots__ = ("_last", "lost")

    def __init__(self) -> None:
        self.lost = 0
        self._last: dict[tuple[int, str, str, str], int] = {}

    def saw(self, topic: str, header: Header) -> None:
        """Take note of an event that came."""
        key = (header.epoch, topic, header.service, header.node)
        seq = header.seq
        last = self._last.get(key)
        if last is None:
            self._begin(key, seq)
        elif seq > last:  # one that is older was counted as lost when the gap was seen
            self.lost += seq - last - 1
            self._last[key] = seq

    def tails(self, header: Header, last: Mapping[str, int]) -> None:
        """Take note of what a sender says it sent last; what has not come by now is lost.

        A topic not heard before counts from here: what was sent before may have been before the subscription.
        """
        for topic, seq in last.items():
            key = (header.epoch, topic, header.service, header.node)
            known = self._last.get(key)
            if known is None:
                self._begin(key, seq)
            elif seq > known:
                self.lost += seq - known
                self._last[key] = seq

    def _begin(self, key: tuple[int, str, str, str], seq: int) -> None:
        if len(self._last) >= MAX_SENDERS:
            del self._last[next(iter(self._last))]  # the first that came: most likely an epoch that is over
        self._last[key] = seq
