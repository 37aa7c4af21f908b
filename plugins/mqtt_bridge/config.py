"""What an operator may set in `[plugins.mqtt-bridge]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sparkd import TOPIC, Secret

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
METHOD = re.compile(r"([a-z][a-z0-9-]*/)?([a-z][a-z0-9-]*:)?[a-z][a-z0-9-]*\.[a-z][a-z0-9_]*")
LEVELS = re.compile(r"[^+#\0\s/]+(/[^+#\0\s/]+)*")
"""An MQTT topic to publish to: no wildcards."""
LAST_PORT = 65_535


def _topics() -> list[str]:
    return ["system.power.mode", "system.health", "edge.sensors.power", "edge.ai.inference", "system.tunnel.peer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandConfig:
    """The table `[plugins.mqtt-bridge.commands.NAME]`: one call that may be made from MQTT, and nothing else of it."""

    method: str
    """Such as `plugins.restart`."""
    params: dict[str, Any] = field(default_factory=dict)
    parameter: str = ""
    """The parameter that the payload gives; none for a button."""
    choices: list[str] = field(default_factory=list)
    """What the payload may be."""
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        if not METHOD.fullmatch(self.method):
            raise ValueError(f"method: 'interface.method' expected, got {self.method!r}")
        if bool(self.parameter) != bool(self.choices):
            raise ValueError("parameter and choices: both or none expected")
        if self.parameter in self.params:
            raise ValueError(f"parameter: {self.parameter!r} stands in params already")
        if not 0 < self.deadline_s <= 300:  # noqa: PLR2004 - said in the message
            raise ValueError(f"deadline_s: from 0 to 300 expected, got {self.deadline_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginConfig:
    """The table `[plugins.mqtt-bridge.login]`."""

    username: str = ""
    password: Secret | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttBridgeConfig:
    """The table `[plugins.mqtt-bridge]`."""

    host: str = "127.0.0.1"
    port: int = 1883
    login: LoginConfig = field(default_factory=LoginConfig)
    tls: bool = False
    ca: Path | None = None
    """A file of certificates to trust instead of the system's."""
    reach: Literal["local", "shared"] = "shared"
    """`local` for a broker at this site, or one that you trust with what is `local`: it gets that too."""
    prefix: str = "sparkd"
    """What the topics begin with; the node's name follows."""
    discovery: str = "homeassistant"
    """Home Assistant's discovery prefix; empty for none."""
    publish: list[str] = field(default_factory=_topics)
    """Topics of this node's events that are published, each with what is beneath it."""
    commands: dict[str, CommandConfig] = field(default_factory=dict)
    switches: list[str] = field(default_factory=list)
    """Services of this node that may be stopped and started."""
    commands_per_minute: int = 30
    retry_least_s: float = 1.0
    retry_most_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.port <= LAST_PORT:
            raise ValueError(f"port: from 1 to {LAST_PORT} expected, got {self.port}")
        for key in ("prefix", "discovery"):
            if (key == "prefix" or self.discovery) and not LEVELS.fullmatch(getattr(self, key)):
                raise ValueError(
                    f"{key}: levels joined by '/' without '+' and '#' expected, got {getattr(self, key)!r}"
                )
        for topic in self.publish:
            if not TOPIC.fullmatch(topic):
                raise ValueError(f"publish: topics such as 'system.power' expected, got {topic!r}")
        self._check_names()
        if not 1 <= self.commands_per_minute <= 6000:  # noqa: PLR2004 - said in the message
            raise ValueError(f"commands_per_minute: from 1 to 6000 expected, got {self.commands_per_minute}")
        if not 0 < self.retry_least_s <= self.retry_most_s:
            raise ValueError("retry_least_s: more than 0 and at the most retry_most_s expected")

    def _check_names(self) -> None:
        for name in (*self.commands, *self.switches):
            if not NAME.fullmatch(name):
                raise ValueError(f"a command's name: lower-case letters, digits, '-' and '_' expected, got {name!r}")
        both = sorted(set(self.commands) & set(self.switches))
        if both:
            raise ValueError(f"switches: {', '.join(both)} are names of commands too")
