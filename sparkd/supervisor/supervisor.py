"""The set of services of a node: which are there, and their orderly start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sparkd.supervisor.supervised import STOP_LIMIT_S, Supervised, Wanted


@dataclass(eq=False, slots=True)
class _Keeper:
    """The task that keeps a service."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False)
class Supervisor:
    """Keeps every service it is given, each in a task of its own; one's failure is nothing to another."""

    services: dict[str, Supervised] = field(default_factory=dict)
    _keepers: dict[Supervised, _Keeper] = field(default_factory=dict)
    _tasks: TaskGroup | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Supervisor]:
        """Keep services until the context is left; then stop them all at once, bounded by `STOP_LIMIT_S`."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop_all()
                tasks.cancel_scope.cancel()

    def add(self, service: Supervised) -> None:
        """Begin to keep *service*. Raises ValueError if there is one of that name."""
        if service.name in self.services:
            raise ValueError(f"there is a service {service.name!r} already")
        if self._tasks is None:
            raise RuntimeError("the supervisor is not open")
        self.services[service.name] = service
        keeper = self._keepers[service] = _Keeper()
        self._tasks.start_soon(self._keep, service, keeper, name=f"keep {service.name}")

    async def remove(self, name: str) -> None:
        """Stop the service *name* and forget it; nothing of it is left then. Raises KeyError if there is none."""
        service = self.services.pop(name)
        keeper = self._keepers[service]
        with anyio.CancelScope(shield=True):
            await _stop(service)
            keeper.scope.cancel()
            await keeper.over.wait()

    async def attempted(self) -> None:
        """Return once each service has had one attempt to run."""
        for service in list(self.services.values()):
            await service.attempted.wait()

    def poke(self, which: Callable[[Supervised], bool] = lambda _service: True) -> None:
        """Let the services that *which* picks look again at what they wait for."""
        for service in self.services.values():
            if which(service):
                service.poke()

    async def _keep(self, service: Supervised, keeper: _Keeper) -> None:
        try:
            with keeper.scope:
                await service.keep()
        finally:
            del self._keepers[service]
            keeper.over.set()

    async def _stop_all(self) -> None:
        async with anyio.create_task_group() as tasks:
            for service in self.services.values():
                tasks.start_soon(_stop, service)


async def _stop(service: Supervised) -> None:
    service.want(Wanted.STOP)
    with anyio.move_on_after(STOP_LIMIT_S + 1):  # what is not over by then is killed when its keeper is cancelled
        await service.run_over.wait()
