"""Instances whose course the test decides, and a service that is made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from sparkd import EnergyClass, Isolation, State
from sparkd.service import Manifest
from sparkd.supervisor import End, EndKind, Instance, Plan, RestartPolicy, Supervised


class Scripted:
    """An instance that does what the test says, one `Scripted` a run."""

    def __init__(self, *, readies: bool = True, pings: bool = True, cannot_start: str = "") -> None:
        self.readies, self.pings, self.cannot_start = readies, pings, cannot_start
        self.pid = 1
        self.end: End | None = None
        self.over = anyio.Event()

    async def ready(self) -> None:
        if not self.readies:
            await anyio.sleep_forever()

    async def ended(self) -> End:
        await self.over.wait()
        assert self.end is not None
        return self.end

    async def ping(self) -> None:
        if not self.pings:
            await anyio.sleep_forever()

    def starved_s(self) -> float:
        return 0.0

    def is_traced(self) -> bool:
        return False

    async def stop(self, limit_s: float) -> None:
        self.finish(End(kind=EndKind.STOPPED))

    async def kill(self, end: End) -> None:
        self.finish(end)

    def finish(self, end: End) -> None:
        self.end = end
        self.over.set()


class Script:
    """A launcher of scripted instances, and the states the service went through."""

    def __init__(self, *instances: Scripted) -> None:
        self.instances = list(instances)
        self.started = 0
        self.states: list[State] = []
        self.news = anyio.Event()

    @asynccontextmanager
    async def launch(self, plan: Plan) -> AsyncIterator[Instance]:
        instance = self.instances[min(self.started, len(self.instances) - 1)]
        self.started += 1
        if instance.cannot_start:
            raise OSError(instance.cannot_start)
        yield instance

    def note(self, service: Supervised) -> None:
        self.states.append(service.state)
        self.news.set()
        self.news = anyio.Event()

    async def until(self, service: Supervised, state: State) -> None:
        with anyio.fail_after(5):
            while service.state is not state:
                await self.news.wait()


def plan(**changes: Any) -> Plan:
    manifest = Manifest(plugin="p", name="p")
    values: dict[str, Any] = {"start_limit_s": 10.0, "watchdog_s": 0.0, **changes}
    return Plan(
        manifest=manifest, source=None, table=None, isolation=Isolation.PROCESS, energy=EnergyClass.NORMAL, **values
    )


def service(script: Script, **changes: Any) -> Supervised:
    policy = RestartPolicy(jitter=lambda: 0.0)
    return Supervised(plan=plan(**changes), launcher=lambda _: script, on_change=script.note, policy=policy)
