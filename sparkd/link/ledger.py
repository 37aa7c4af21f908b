"""Who sends how much over the links: bytes of messages, as they are handed to a link, by service of this node."""

from __future__ import annotations

from collections.abc import Sequence

from sparkd.calls.frames import Cancel, End, Failure, Head, Open, Request

CORE = "core"
MAX_NAMES = 1000
"""Services counted by name; a name more counts as the core's."""
MAX_OPEN = 1000
"""Streams under way whose service is remembered; of one more the items count as the core's."""


class Ledger:
    """Counts for all peers together."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.sent: dict[str, int] = {}
        self._open: dict[tuple[int, bool, int], str] = {}

    def event(self, service: str, message: Sequence[bytes]) -> None:
        """Count an event of *service*."""
        self._add(service, message)

    def call(self, session: int, head: Head, message: Sequence[bytes]) -> None:
        """Count a message of a call on *session*: the caller's, or of who answers; of nobody known, the core's."""
        match head:
            case Request():
                name = head.caller.rpartition("/")[2]
                self._remember((session, False, head.id), name)
            case Open() | End(answer=True):
                name = head.served_by.rpartition("/")[2] or self._open.get((session, True, head.id), CORE)
                self._remember((session, True, head.id), name)
            case _:
                name = self._open.get((session, getattr(head, "answer", False), head.id), CORE)
        if isinstance(head, End | Failure | Cancel):
            self._open.pop((session, head.answer, head.id), None)
        self._add(name or CORE, message)

    def closed(self, session: int) -> None:
        """Forget the calls of a session that is over."""
        for key in [key for key in self._open if key[0] == session]:
            del self._open[key]

    def _remember(self, key: tuple[int, bool, int], name: str) -> None:
        while len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[key] = name

    def _add(self, name: str, message: Sequence[bytes]) -> None:
        if name not in self.sent and len(self.sent) >= MAX_NAMES:
            name = CORE
        self.sent[name] = self.sent.get(name, 0) + sum(map(len, message))
