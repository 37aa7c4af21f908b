"""What a message to a command topic asks for: the call that the config names, or nothing. Pure: time is given."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .config import MqttBridgeConfig

MAX_PAYLOAD = 256
MINUTE_S = 60.0
PRESS = "PRESS"


class RefusedError(Exception):
    """Nothing is called; the message says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make."""

    method: str
    params: dict[str, Any]
    deadline_s: float


@dataclass(slots=True)
class Commands:
    """The commands of a config, and how many were taken lately."""

    config: MqttBridgeConfig
    _times: deque[float] = field(default_factory=deque)

    def call(self, name: str, payload: bytes, *, retained: bool, now: float) -> Call:
        """Return the call that a message asks for. Raises RefusedError."""
        if retained:  # it would be done again at each connection
            raise RefusedError("a retained command: send it without the retain flag")
        if len(payload) > MAX_PAYLOAD:
            raise RefusedError(f"{len(payload)} bytes; {MAX_PAYLOAD} at the most")
        found = self._find(name, payload.decode(errors="replace").strip())
        while self._times and now - self._times[0] >= MINUTE_S:
            self._times.popleft()
        if len(self._times) >= self.config.commands_per_minute:
            raise RefusedError(f"more than {self.config.commands_per_minute} commands in a minute")
        self._times.append(now)
        return found

    def _find(self, name: str, said: str) -> Call:
        if name in self.config.switches:
            verb = {"ON": "start", "OFF": "stop"}.get(said)
            if verb is None:
                raise RefusedError(f"ON or OFF expected, got {said[:40]!r}")
            return Call(f"plugins.{verb}", {"name": name}, 30.0)
        command = self.config.commands.get(name)
        if command is None:
            raise RefusedError(f"no command is called {name[:80]!r}")
        if not command.choices:
            if said != PRESS:
                raise RefusedError(f"{PRESS} expected, got {said[:40]!r}")
            return Call(command.method, dict(command.params), command.deadline_s)
        if said not in command.choices:
            raise RefusedError(f"one of {', '.join(command.choices)} expected, got {said[:40]!r}")
        return Call(command.method, {**command.params, command.parameter: said}, command.deadline_s)
