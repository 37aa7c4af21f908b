"""Services that rest or are slowed while power is short, and their way back if whoever asked for it is gone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from sparkd.calls import current_call
from sparkd.config import nearest
from sparkd.errors import CallError, CallErrorKind
from sparkd.shedding_interface import ServiceLoad
from sparkd.states import State
from sparkd.supervisor import Supervised
from sparkd.supervisor.supervised import Wanted

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

ABSENT_S = 60.0
"""So long may whoever asked be away before all that it asked for is undone: a crash and its back-off fit in."""
SETTLE_LIMIT_S = 20.0
RUNNING = (State.RUNNING, State.DEGRADED)
MIN_PERCENT, MAX_PERCENT = 1.0, 100_000.0


class Shedding:
    """`shedding`: what was asked for, by whom."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._shed_by: dict[str, str] = {}
        """Who asked, by the service that rests."""
        self._slowed_by: dict[str, str] = {}
        """Who asked, by the service that is slowed."""
        self._gone_since: dict[str, float] = {}
        """Since when (monotonic) somebody who asked does not run."""

    async def services(self) -> list[ServiceLoad]:
        """Return every service."""
        return [self._load(one) for _, one in sorted(self._core.supervisor.services.items())]

    async def shed(self, *, services: list[str], reason: str, remedy: str = "") -> list[str]:
        """Let services rest."""
        asked = [self._service(name) for name in services]
        caller = current_call().caller
        if any(one.name == caller for one in asked):
            raise CallError(CallErrorKind.INVALID_PARAMS, f"{caller} cannot rest itself", field="services")
        resting = [one for one in asked if one.wanted in (Wanted.RUN, Wanted.SHED)]
        for one in resting:
            self._shed_by[one.name] = caller
            one.shed(reason, remedy or "it comes back by itself; sparkctl plugin start brings it up now")
        await self._settled(resting)
        return [one.name for one in resting]

    async def restore(self, *, services: list[str]) -> list[str]:
        """Let services run again."""
        resting = [one for name in services if (one := self._service(name)).wanted is Wanted.SHED]
        for one in resting:
            self._wake(one)
        await self._settled(resting)
        return [one.name for one in resting]

    async def throttle(self, *, service: str, cpu_max_percent: float, reason: str) -> bool:
        """Slow a service."""
        name = self._service(service).name
        if not (math.isfinite(cpu_max_percent) and MIN_PERCENT <= cpu_max_percent <= MAX_PERCENT):
            message = f"from {MIN_PERCENT:g} to {MAX_PERCENT:g} expected, got {cpu_max_percent:g}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="cpu_max_percent")
        self._slowed_by[name] = current_call().caller
        self._core.log.info("service slowed", service=name, percent=cpu_max_percent, why=reason)
        return await anyio.to_thread.run_sync(self._core.budgets.throttle, name, cpu_max_percent)

    async def unthrottle(self, *, service: str) -> None:
        """Give a service back what its config allows."""
        await self._hasten(self._service(service).name)

    async def _hasten(self, name: str) -> None:
        self._slowed_by.pop(name, None)
        await anyio.to_thread.run_sync(self._core.budgets.throttle, name, None)

    def _wake(self, service: Supervised) -> None:
        self._shed_by.pop(service.name, None)
        service.want(Wanted.RUN)

    async def _settled(self, services: Sequence[Supervised]) -> None:
        with anyio.move_on_after(SETTLE_LIMIT_S):
            for one in services:
                await self._core.settled(one)

    def _service(self, name: str) -> Supervised:
        services = self._core.supervisor.services
        if name not in services:
            message = f"there is no service {name!r}; {nearest(name, services)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="services")
        return services[name]

    def _load(self, service: Supervised) -> ServiceLoad:
        slowed = self._core.budgets.throttles.get(service.name)
        shed = service.wanted is Wanted.SHED
        return ServiceLoad(
            name=service.name,
            plugin=service.plan.manifest.plugin,
            energy=service.plan.energy,
            state=service.state,
            shed=shed,
            throttle_percent=slowed,
            by=self._asker(service.name, shed=shed, slowed=slowed is not None),
        )

    def _asker(self, name: str, *, shed: bool, slowed: bool) -> str:
        if shed:
            return self._shed_by.get(name, "")
        return self._slowed_by.get(name, "") if slowed else ""

    # The way back

    def absent(self, now: float) -> tuple[set[str], float | None]:
        """Return who asked for something and has been away for too long at *now*, and when to look again."""
        supervised = self._core.supervisor.services
        shed = {self._shed_by.get(name, "") for name, one in supervised.items() if one.wanted is Wanted.SHED}
        slowed = {self._slowed_by.get(name, "") for name in self._core.budgets.throttles}
        askers = (shed | slowed) - {""}
        away = {one for one in askers if not one.startswith("rpc:") and not self._runs(one)}
        self._gone_since = {one: self._gone_since.get(one, now) for one in away}
        ends = [since + ABSENT_S for since in self._gone_since.values()]
        over = {one for one, since in self._gone_since.items() if now >= since + ABSENT_S}
        return over, min((end for end in ends if end > now), default=None)

    def _runs(self, asker: str) -> bool:
        """Whether *asker* runs; a node that asks over the link counts as there as long as it is linked."""
        if "/" in asker:
            node = asker.partition("/")[0]
            return any(link.peer == node and link.connected for link in self._core.link.status())
        held = self._core.supervisor.services.get(asker)
        return held is not None and held.state in RUNNING

    async def undo(self, askers: set[str]) -> None:
        """Undo what *askers* asked for."""
        for name, asker in list(self._slowed_by.items()):
            if asker in askers:
                self._core.log.warning("power policy gone, service at full speed", service=name, asked=asker)
                await self._hasten(name)
        for name, asker in list(self._shed_by.items()):
            service = self._core.supervisor.services.get(name)
            if asker not in askers:
                continue
            self._shed_by.pop(name, None)
            if service is not None and service.wanted is Wanted.SHED:
                self._core.log.warning("power policy gone, service comes back", service=name, asked=asker)
                self._wake(service)


async def bring_back(core: Core, begun: Callable[[], None]) -> None:
    """Undo what somebody has asked for who is away for too long."""
    begun()
    while True:
        changed = core.changed
        over, due = core.shedding.absent(time.monotonic())
        if over:
            await core.shedding.undo(over)
            continue
        with anyio.move_on_after(math.inf if due is None else max(due - time.monotonic(), 0.01)):
            await changed.wait()
