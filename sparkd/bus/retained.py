"""The last values of state topics, kept by the core for those who come later."""

from __future__ import annotations

from collections import OrderedDict

from sparkd.codec import Message
from sparkd.events import topic_matches
from sparkd.reference import is_reference

MAX_VALUES = 1000
MAX_BYTES = 4 << 20


class Retained:
    """The last message of each (topic, node, service), bounded: the one unchanged for longest goes first."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, str, str], Message] = OrderedDict()
        self._bytes = 0

    def keep(self, message: Message) -> None:
        """Take *message* as the last value of its topic and sender, unless it is a reference: that will not last."""
        if is_reference(message.body):
            return
        key = (message.topic, message.header.node, message.header.service)
        self._drop(key)
        self._values[key] = message
        self._bytes += len(message.body)
        while len(self._values) > MAX_VALUES or self._bytes > MAX_BYTES:
            self._drop(next(iter(self._values)))

    def at(self, topic: str) -> list[Message]:
        """Return the last values at or beneath *topic*."""
        return [message for (name, _, _), message in self._values.items() if topic_matches(topic, name)]

    def _drop(self, key: tuple[str, str, str]) -> None:
        old = self._values.pop(key, None)
        if old is not None:
            self._bytes -= len(old.body)
