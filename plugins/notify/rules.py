"""Which events are told, how often, and to whom. Pure: time is given."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparkd import Priority, topic_matches

from .config import HOUR_S, RuleConfig
from .templates import fill

MAX_REMEMBERED = 1000
"""Of each rule: texts within their time, and last values of senders. The oldest are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An event, as a rule sees it."""

    topic: str
    node: str
    service: str
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What is told."""

    title: str
    message: str
    priority: Priority = "default"
    channels: tuple[str, ...] = ()
    topic: str = ""
    repeated: int = 0
    """How often the same was said since it was last told."""


@dataclass(slots=True)
class Counts:
    """What was not told, and why."""

    repeated: int = 0
    limited: int = 0


@dataclass(slots=True)
class Rule:
    """A rule, and what it remembers."""

    config: RuleConfig
    counts: Counts
    _told: OrderedDict[tuple[str, str], tuple[float, int]] = field(default_factory=OrderedDict)
    """When a text was told, and how often it was said since."""
    _last: OrderedDict[tuple[str, str, str], Any] = field(default_factory=OrderedDict)
    _times: deque[float] = field(default_factory=deque)

    def hear(self, said: Said, now: float) -> Notification | None:
        """Return what to tell of *said* at *now* (monotonic seconds); None for nothing."""
        if not any(topic_matches(topic, said.topic) for topic in self.config.topics):
            return None
        if not self._changed(said) or not self._fits(said):
            return None
        values = _values(said)
        title, message = fill(self.config.title, values), fill(self.config.message, values)
        repeated = self._repeats((title, message), now)
        if repeated is None or not self._allowed(now):
            return None
        return Notification(
            title=title,
            message=message,
            priority=self.config.priority,
            channels=tuple(self.config.channels),
            topic=said.topic,
            repeated=repeated,
        )

    def _changed(self, said: Said) -> bool:
        """Whether the field that matters changed; the first that is ever heard of a sender is no change."""
        if not self.config.changes:
            return True
        key, value = (said.node, said.service, said.topic), _field(said.event, self.config.changes)
        known = key in self._last
        before = self._last.pop(key, None)
        self._last[key] = value
        if len(self._last) > MAX_REMEMBERED:
            self._last.popitem(last=False)
        return known and before != value

    def _fits(self, said: Said) -> bool:
        rule = self.config
        if any(not _among(_field(said.event, name), values) for name, values in rule.where.items()):
            return False
        numbers = {name: _field(said.event, name) for name in (*rule.above, *rule.below)}
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers.values()):
            return False
        return all(numbers[name] > limit for name, limit in rule.above.items()) and all(
            numbers[name] < limit for name, limit in rule.below.items()
        )

    def _repeats(self, text: tuple[str, str], now: float) -> int | None:
        """Return how often *text* was said since it was told; None if it is too early to tell it again."""
        told = self._told.pop(text, None)
        if told is not None and now - told[0] < self.config.dedupe_s:
            self._told[text] = (told[0], told[1] + 1)
            self.counts.repeated += 1
            return None
        self._told[text] = (now, 0)
        if len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        return told[1] if told is not None else 0

    def _allowed(self, now: float) -> bool:
        while self._times and now - self._times[0] >= HOUR_S:
            self._times.popleft()
        if len(self._times) >= self.config.limit_per_hour:
            self.counts.limited += 1
            return False
        self._times.append(now)
        return True


def _field(event: Mapping[str, Any], name: str) -> Any:
    value: Any = event
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _among(value: Any, wanted: list[Any]) -> bool:
    """Whether *value* is one of *wanted*; true is not 1 here."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


def _values(said: Said) -> dict[str, Any]:
    """Return what a template may name; an event's own field `service` is `service_name`, beside who said it."""
    event = {str(name): value for name, value in said.event.items()}
    flat = {
        f"{name}.{inner}": v
        for name, value in event.items()
        if isinstance(value, Mapping)
        for inner, v in value.items()
    }
    own = {"node": said.node, "service": said.service, "topic": said.topic}
    return {**flat, **event, "service_name": event.get("service", said.service), **own}
