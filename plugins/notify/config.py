"""What an operator may set in `[plugins.notify]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from sparkd import PRIORITIES, TOPIC, Priority, Secret

from .templates import check_template

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
HEADER = re.compile(r"[A-Za-z0-9-]{1,60}")
HOUR_S, DAY_S = 3600.0, 86_400.0

Plain = str | int | float | bool
Reach = Literal["local", "shared"]


def check_url(url: str) -> None:
    """Raise ValueError unless *url* is one of HTTP without a user in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "\n" in url:
        raise ValueError(f"url: http://HOST/PATH or https://HOST/PATH expected, got {url[:80]!r}")
    if parts.username or parts.password:
        raise ValueError("url: no user and password expected; name a secret instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class NtfyConfig:
    """The table `[plugins.notify.ntfy.NAME]`: a topic of an ntfy server."""

    url: str
    """With the topic, such as https://ntfy.sh/my-house."""
    token: Secret | None = field(default=None, repr=False)
    reach: Reach = "shared"
    """`local` for a server at this site, or one that you trust with what is `local`: it gets that too."""

    def __post_init__(self) -> None:
        check_url(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """The table `[plugins.notify.webhook.NAME]`: gets a POST with JSON."""

    url: str
    headers: dict[str, Secret] = field(default_factory=dict, repr=False)
    """Headers whose values are secrets, such as Authorization."""
    reach: Reach = "shared"

    def __post_init__(self) -> None:
        check_url(self.url)
        for name in self.headers:
            if not HEADER.fullmatch(name):
                raise ValueError(f"headers: a header's name expected, got {name[:60]!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpConfig:
    """The table `[plugins.notify.smtp.NAME]`: a mail for each notification."""

    host: str
    to: list[str]
    sender: str
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: Secret | None = field(default=None, repr=False)
    reach: Reach = "shared"

    def __post_init__(self) -> None:
        if not 0 < self.port < 1 << 16:
            raise ValueError(f"port: from 1 to 65535 expected, got {self.port}")
        if not self.to:
            raise ValueError("to: at least one address expected")
        for address in (*self.to, self.sender):
            if "@" not in address or any(letter in address for letter in "\r\n<>,"):
                raise ValueError(f"an address such as me@example.org expected, got {address[:80]!r}")
        if self.password is not None and self.security == "none":
            raise ValueError("security: a password goes over an encrypted line only")


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """The table `[plugins.notify.rules.NAME]`: which events are told, and how."""

    topics: list[str]
    """Topics of events, each with what is beneath it."""
    where: dict[str, list[Plain]] = field(default_factory=dict)
    """Fields of the event, and the values they must have; fields within a field are joined by dots."""
    above: dict[str, float] = field(default_factory=dict)
    below: dict[str, float] = field(default_factory=dict)
    changes: str = ""
    """A field: told only when it differs from what the same sender said last on the same topic."""
    title: str = "{node}: {topic}"
    message: str = "{service} of {node} says {topic}"
    """What stands in braces is replaced: fields of the event, and node, service, topic."""
    priority: Priority = "default"
    channels: list[str] = field(default_factory=list)
    """By which it is told; all if empty."""
    limit_per_hour: int = 20
    dedupe_s: float = 300.0
    """The same text within this time is counted, and the count said with the next."""

    def __post_init__(self) -> None:
        for topic in self.topics:
            if not TOPIC.fullmatch(topic):
                raise ValueError(f"topics: such as 'system.power.mode' expected, got {topic!r}")
        if not self.topics:
            raise ValueError("topics: at least one expected")
        for key in ("title", "message"):
            check_template(key, getattr(self, key))
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority: one of {', '.join(PRIORITIES)} expected, got {self.priority!r}")
        if not 1 <= self.limit_per_hour <= HOUR_S:
            raise ValueError(f"limit_per_hour: from 1 to 3600 expected, got {self.limit_per_hour}")
        if not 0 <= self.dedupe_s <= DAY_S:
            raise ValueError(f"dedupe_s: from 0 to 86400 expected, got {self.dedupe_s:g}")


def default_rules() -> dict[str, RuleConfig]:
    """Return what is told if the config names no rules."""
    return {
        "power": RuleConfig(
            topics=["system.power.mode"],
            where={"scope": ["node"]},
            changes="mode",
            title="{node} is {mode}",
            message="{node} is {mode}: {reason}",
            priority="high",
        ),
        "broken": RuleConfig(
            topics=["system.health.service"],
            where={"state": ["broken"]},
            title="{node}: {service_name} is broken",
            message="{service_name} of {node} is broken: {reason}",
            priority="high",
        ),
        "health": RuleConfig(
            topics=["system.health"],
            where={"ok": [False]},
            title="{node} is not well",
            message="{node}: {problems}",
        ),
        "link": RuleConfig(
            topics=["system.health.link"],
            changes="connected",
            title="{node}: link to {peer}",
            message="{node}: link to {peer}: connected {connected} {reason}",
            priority="low",
        ),
        "tunnel": RuleConfig(
            topics=["system.tunnel.peer"],
            where={"state": ["down", "up"]},
            changes="state",
            title="{node}: tunnel to {peer} is {state}",
            message="{node}: tunnel to {peer} is {state} {diagnosis} {reason}",
        ),
        "rollback": RuleConfig(
            topics=["system.health.rollback"],
            title="{node}: a change was taken back",
            message="{node}: {service_name} failed by a change, which was taken back: {reason}",
            priority="high",
        ),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConfig:
    """The table `[plugins.notify]`."""

    ntfy: dict[str, NtfyConfig] = field(default_factory=dict)
    webhook: dict[str, WebhookConfig] = field(default_factory=dict)
    smtp: dict[str, SmtpConfig] = field(default_factory=dict)
    rules: dict[str, RuleConfig] = field(default_factory=dict)
    """What is told, instead of what is told by default."""
    keep_s: float = DAY_S
    """What could not be told for so long is told no more."""
    answer_limit_s: float = 15.0
    retry_least_s: float = 1.0
    retry_most_s: float = 300.0

    def __post_init__(self) -> None:
        for key in ("keep_s", "answer_limit_s", "retry_least_s", "retry_most_s"):
            if not 0 < getattr(self, key) <= 30 * DAY_S:
                raise ValueError(f"{key}: a positive number of seconds expected, got {getattr(self, key):g}")
        channels = self.channels()
        if len(channels) != len(self.ntfy) + len(self.webhook) + len(self.smtp):
            raise ValueError("two channels have the same name: a name is for one channel, of whatever kind")
        for name in channels:
            if not NAME.fullmatch(name):
                raise ValueError(f"a channel's name: lower-case letters, digits, '-' and '_' expected, got {name!r}")
        for name, rule in self.rules.items():
            for channel in rule.channels:
                if channel not in channels:
                    known = ", ".join(channels) or "none"
                    raise ValueError(f"rules.{name}.channels: no channel is called {channel!r}; there are {known}")

    def channels(self) -> dict[str, tuple[str, Any]]:
        """Return each channel's kind and config by its name."""
        return {
            name: (kind, config) for kind in ("ntfy", "webhook", "smtp") for name, config in getattr(self, kind).items()
        }
