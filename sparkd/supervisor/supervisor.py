"""The set of services of a node: which are there, and their orderly start and stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sparkd.supervisor.supervised import STOP_LIMIT_S, Supervised, Wanted


@dataclass(eq=False)
class Supervisor:
    """Keeps every service it is given, each in a task of its own; one's failure is nothing to another."""

    services: dict[str, Supervised] = field(default_factory=dict)
    _scopes: dict[str, anyio.CancelScope] = field(default_factory=dict)
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
        self._tasks.start_soon(self._keep, service, name=f"keep {service.name}")

    async def remove(self, name: str) -> None:
        """Stop the service *name* and forget it. Raises KeyError if there is none."""
        service = self.services.pop(name)
        await self._stop(service)
        self._scopes.pop(name).cancel()

    async def attempted(self) -> None:
        """Return once each service has had one attempt to run."""
        for service in list(self.services.values()):
            await service.attempted.wait()

    def poke(self, which: Callable[[Supervised], bool] = lambda _service: True) -> None:
        """Let the services that *which* picks look again at what they wait for."""
        for service in self.services.values():
            if which(service):
                service.poke()

    async def _keep(self, service: Supervised) -> None:
        with anyio.CancelScope() as scope:
            self._scopes[service.name] = scope
            await service.keep()

    async def _stop_all(self) -> None:
        await _all(self._stop, self.services.values())

    @staticmethod
    async def _stop(service: Supervised) -> None:
        service.want(Wanted.STOP)
        if service.instance is not None:
            await service.instance.stop(STOP_LIMIT_S)


async def _all(function: Callable[[Supervised], object], services: Iterable[Supervised]) -> None:
    async with anyio.create_task_group() as tg:
        for service in services:
            tg.start_soon(function, service)  # type: ignore[arg-type] # an async function of one service
