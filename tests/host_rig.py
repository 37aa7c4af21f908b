"""A core small enough for a test: the real broker, router and socket, and nothing that starts services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from sparkd import Durability, NoConfig, Service, event, interface
from sparkd.bus import Broker, BusClient
from sparkd.calls import CallRouter, Handlers, Rules, Terms, current_call, open_to_hosts, stub
from sparkd.core_interfaces import HostApi, SupervisorApi
from sparkd.errors import CallError, CallErrorKind
from sparkd.host import Place, run_host
from sparkd.supervisor.processes import Entrance

I = TypeVar("I")  # noqa: E741 - I for interface


@event("test.kept", durability=Durability.DURABLE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    n: int


@interface("greeter")
class Greeter(Protocol):
    async def greet(self, *, name: str) -> str: ...


@interface("secret-door")
class Undeclared(Protocol):
    async def open(self) -> None: ...


class Greetings:
    async def greet(self, *, name: str) -> str:
        return f"hello {name}"


def service(run: Any, **declared: Any) -> Service[NoConfig]:
    return Service(name="greet", config=NoConfig, run=run, **declared)


@dataclass
class Core:
    """What a host meets, and what it said."""

    runtime: Path
    tasks: TaskGroup
    entrance: Entrance = field(default_factory=Entrance)
    said: list[tuple[str, ...]] = field(default_factory=list)
    news: anyio.Event = field(default_factory=anyio.Event)
    router: CallRouter = field(init=False)

    def __post_init__(self) -> None:
        handlers = Handlers(on_error=lambda _method, _error: None)
        handlers.bind(SupervisorApi, self)
        rules = Rules(verify=self.entrance.verify, providers=lambda name: ["greet"] if name == "greeter" else [])
        self.router = CallRouter(node="home", core=handlers, tasks=self.tasks, rules=rules)

    def place(self, token: str) -> Place:
        state = str(self.runtime / "state")
        return Place(node="home", node_id="0" * 32, site="here", runtime=str(self.runtime), state=state, token=token)

    async def run(self, hosted: Service[NoConfig]) -> bool:
        token, _ = self.entrance.expect(hosted.name)
        return await run_host(hosted, NoConfig(), self.place(token))

    def host(self) -> HostApi:
        return stub(HostApi, self.router.call, Terms(service="greet"))

    def calls(self, interface: type[I]) -> I:
        return stub(interface, self.router.call, Terms())

    async def until(self, *word: str) -> None:
        with anyio.fail_after(10):
            while word not in self.said:
                await self.news.wait()

    def _take(self, *word: str) -> None:
        self.said.append(word)
        self.news.set()
        self.news = anyio.Event()

    async def hello(self, *, service: str, token: str) -> None: ...

    async def bind(self, *, interfaces: list[str]) -> None: ...

    async def ready(self) -> None:
        self.entrance.is_ready(current_call().caller)
        self._take("ready")

    async def degraded(self, *, reason: str, remedy: str = "") -> None:
        self._take("degraded", reason, remedy)

    async def recovered(self) -> None:
        self._take("recovered")

    async def blocked(
        self, *, count: int, seconds: float, longest_s: float, last_s: float, file: str, line: int
    ) -> None:
        self._take("blocked", file, str(line))

    async def retained(self, *, topic: str) -> list[list[bytes]]:
        raise CallError(CallErrorKind.UNAVAILABLE, topic)


@asynccontextmanager
async def core_in(runtime: Path) -> AsyncIterator[Core]:
    async with Broker(runtime).open(), anyio.create_task_group() as tasks:
        core = Core(runtime, tasks)
        async with open_to_hosts(core.router, runtime / "calls"):
            yield core
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def listener(runtime: Path) -> AsyncIterator[BusClient]:
    async with BusClient(runtime, node="home", service="listener").open() as bus:
        yield bus
