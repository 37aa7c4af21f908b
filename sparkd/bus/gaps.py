"""What did not arrive: gaps in the senders' sequence numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sparkd.codec import Header

MAX_SENDERS = 10_000
"""Sequences remembered; more come only from a sender that makes up names."""


class GapCounter:
    """Counts the events of each (node, service, topic) that were sent and did not come."""

    __slots__ = ("_last", "lost")

    def __init__(self) -> None:
        self.lost = 0
        self._last: dict[tuple[str, str, str], tuple[int, int]] = {}

    def saw(self, topic: str, header: Header) -> None:
        """Take note of an event that came."""
        key = (topic, header.service, header.node)
        last = self._last.get(key)
        if last is not None and last[0] == header.epoch:
            if header.seq > last[1]:
                self.lost += header.seq - last[1] - 1
            else:
                return  # older than what came: it was counted as lost when the gap was seen
        elif last is None and len(self._last) >= MAX_SENDERS:
            return
        self._last[key] = (header.epoch, header.seq)

    def tails(self, header: Header, last: Mapping[str, int]) -> None:
        """Take note of what a sender says it sent last; what has not come by now is lost."""
        for topic, seq in last.items():
            key = (topic, header.service, header.node)
            known = self._last.get(key)
            if known is not None and known[0] == header.epoch and seq > known[1]:
                self.lost += seq - known[1]
                self._last[key] = (header.epoch, seq)
