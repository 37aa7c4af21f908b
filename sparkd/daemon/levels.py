"""How much is logged: the config's level, and what an operator set since, until the daemon restarts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from sparkd.log import LEVELS

CORE = "core"


@dataclass(eq=False)
class Levels:
    """The level of each service's log."""

    configured: str
    own: dict[str, str] = field(default_factory=dict)
    """What was set, by service; `core` is everything of the daemon's own process."""

    def of(self, service: str) -> str:
        """Return the level of *service*."""
        return self.own.get(service, self.configured)

    def set(self, service: str, level: str) -> None:
        """Set the level of *service*, or of all if it is empty. Raises KeyError for an unknown level."""
        number = LEVELS[level]
        if not service:
            self.configured = level
            for name in [name for name in self.own if name != CORE]:
                self._forget(name)
        if service in ("", CORE):
            self.own.pop(CORE, None)
            logging.getLogger().setLevel(number)
            if service:
                self.own[CORE] = level
            return
        self.own[service] = level
        # What a service writes passes this process's log once more, under the service's name.
        logging.getLogger(service).setLevel(number)

    def _forget(self, service: str) -> None:
        del self.own[service]
        logging.getLogger(service).setLevel(logging.NOTSET)

    def each(self, services: Iterable[str]) -> dict[str, str]:
        """Return the level of the core and of each of *services*."""
        return {name: self.of(name) for name in [CORE, *services]}
