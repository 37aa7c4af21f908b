"""What the supervisor needs of a way to run a service: start an instance, hear that it is ready, end it, learn why."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from sparkd.service import EnergyClass, Isolation, Manifest
from sparkd.supervisor.policy import End


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A service as it is to be run: its manifest, with what the config overrides."""

    manifest: Manifest
    source: Any
    """Where the code is (`sparkd.registry.PluginSource`); only a launcher looks inside."""
    table: Any
    """The plugin's config table (`sparkd.config.PluginTable`); only a launcher looks inside."""
    isolation: Isolation
    start_limit_s: float
    energy: EnergyClass
    critical: bool = False
    watchdog_s: float = 10.0
    """How long the event loop may leave a ping unanswered; 0 for no watchdog."""
    needs: tuple[str, ...] = ()
    """The manifest's, and those that the config adds."""
    stop_without_needs: bool = False
    """Whether it is stopped when something it needs goes away while it runs."""

    @property
    def name(self) -> str:
        """The service's name."""
        return self.manifest.name


class Instance(Protocol):
    """One run of a service."""

    @property
    def pid(self) -> int | None:
        """Its process, if it has one of its own."""
        ...

    async def ready(self) -> None:
        """Return once the service has called `started()`; never, if it does not."""
        ...

    async def ended(self) -> End:
        """Return how it ended, once it has."""
        ...

    async def ping(self) -> None:
        """Return once the service's event loop has answered."""
        ...

    def starved_s(self) -> float:
        """Return for how long in all it has waited for a processor; 0 where that is not known."""
        ...

    def is_traced(self) -> bool:
        """Whether a debugger holds it."""
        ...

    async def stop(self, limit_s: float) -> None:
        """Ask it to stop, and kill it if it has not within *limit_s*."""
        ...

    async def kill(self, end: End) -> None:
        """Kill it; `ended` then returns *end*, with the place where it is stuck if that can be found out."""
        ...


class Launcher(Protocol):
    """Starts instances of one isolation."""

    def launch(self, plan: Plan) -> AbstractAsyncContextManager[Instance]:
        """Start an instance; leaving the context kills what is left of it. Raises OSError if it cannot be started."""
        ...
