"""Who needs what, and who is to look again.

Theory of operation: `missing` looks. `follow` listens to the kernel for the kinds of needs that services have at the
moment, and after each hint lets those services reconsider that have a need of this kind: one that waits goes on when
what it lacks has come, or says what it lacks now; one that runs goes on running without, unless its config says
`stop_without_needs`. A path on a network mount may be made by another machine, of which no kernel tells: so paths, and
nothing else, are looked at once a minute besides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from sparkd.daemon.needs import tidings
from sparkd.daemon.needs.looks import Lack, look
from sparkd.log import StructuredLog
from sparkd.needs import Need, NeedKind, parse_need
from sparkd.states import State
from sparkd.supervisor import Plan, Supervised
from sparkd.supervisor.policy import End, EndKind

LOOK_LIMIT_S = 1.0
"""How long what is needed may take to be looked at: a dead network mount never answers."""
LOOKS = 8
"""At once; a look that never ends keeps its place, and only what needs a path waits for it."""
PATHS_AGAIN_S = 60.0
AGAIN_S = 5.0
RUNNING = (State.RUNNING, State.DEGRADED)
_ON_DISK = {NeedKind.PATH, NeedKind.DEVICE, NeedKind.MOUNT}


class World(Protocol):
    """What the needs must know of the node."""

    def services(self) -> dict[str, Supervised]:
        """Return the services, by name."""
        ...

    def providers(self, interface: str) -> list[str]:
        """Return the services that declare *interface*."""
        ...

    async def synced(self) -> None:
        """Return when the plugins have been read again."""
        ...

    def tell(self, what: str, problem: str) -> None:
        """Show what keeps changes of *what* from being noticed; nothing once they are."""
        ...


class Needs:
    """The needs of a node's services."""

    def __init__(self, world: World, *, look: Callable[[Need], Lack | None] = look) -> None:
        self._world, self._look = world, look
        self._looks = anyio.CapacityLimiter(LOOKS)
        self._log = StructuredLog("core")

    async def missing(self, plan: Plan) -> End | None:
        """Return all that *plan* needs and is not there; None if nothing is missing."""
        lacks = [lack for text in plan.needs if (lack := await self._lack(parse_need(text))) is not None]
        if not lacks:
            return None
        reasons, remedies = (
            list(dict.fromkeys(texts)) for texts in zip(*((k.reason, k.remedy) for k in lacks), strict=True)
        )
        return End(kind=EndKind.MISSING, reason="; ".join(reasons), remedy="; ".join(remedies))

    async def follow(self) -> None:
        """Let services reconsider when what they need may have changed; until cancelled."""
        while True:
            wanted = self._wanted()
            async with anyio.create_task_group() as tasks:
                self._listen(tasks, wanted)
                while self._wanted() == wanted:
                    await self._world.synced()
                tasks.cancel_scope.cancel()

    async def reconsider(self, kinds: set[NeedKind], which: Callable[[Need], bool] = lambda _need: True) -> None:
        """Let the services look again that have a need of *kinds* that *which* picks."""
        for service in list(self._world.services().values()):
            needs = [parse_need(text) for text in service.plan.needs]
            if any(need.kind in kinds and which(need) for need in needs):
                await self._reconsider(service)

    async def _reconsider(self, service: Supervised) -> None:
        waits = service.state is State.WAITING and not service.retry_at  # one with a time to retry keeps its pauses
        leaves = service.state in RUNNING and service.plan.stop_without_needs
        if not (waits or leaves):
            return
        lack = await self.missing(service.plan)
        if waits and (lack is None or lack.reason != service.end.reason):
            service.poke()
        elif leaves and lack is not None:
            service.leave()

    async def _lack(self, need: Need) -> Lack | None:
        if need.kind is NeedKind.SERVICE:
            return self._service(need.what)
        if need.kind is NeedKind.INTERFACE:
            return self._interface(need.what)
        with anyio.move_on_after(LOOK_LIMIT_S):
            return await to_thread.run_sync(self._look, need, limiter=self._looks, abandon_on_cancel=True)
        return Lack(f"needs {need.what}, which does not answer", f"see its mount: umount -l {need.what}, if it is dead")

    def _service(self, name: str) -> Lack | None:
        if self._runs(name):
            return None
        remedy = f"sparkctl plugin start {name}" if name in self._world.services() else "install or drop in its plugin"
        return Lack(f"needs the service {name!r}, which does not run", remedy)

    def _interface(self, name: str) -> Lack | None:
        providers = self._world.providers(name)
        if any(self._runs(provider) for provider in providers):
            return None
        who = f": {', '.join(providers)} would" if providers else ""
        return Lack(f"needs a service here that serves {name!r}, and none runs{who}", "sparkctl status")

    def _runs(self, name: str) -> bool:
        service = self._world.services().get(name)
        return service is not None and service.state in RUNNING

    def _wanted(self) -> frozenset[Need]:
        """Return what is needed of the machine, by any service."""
        needs = {parse_need(text) for service in self._world.services().values() for text in service.plan.needs}
        return frozenset(need for need in needs if need.kind not in (NeedKind.SERVICE, NeedKind.INTERFACE))

    def _listen(self, tasks: TaskGroup, wanted: Iterable[Need]) -> None:
        """Listen to what tells of *wanted*."""
        kinds = {need.kind for need in wanted}
        paths = sorted(need.path for need in wanted if need.kind in _ON_DISK)
        if paths:
            # A mount changes what a path is; so does its end.
            tasks.start_soon(self._hear, partial(tidings.of_paths, paths), _ON_DISK)
            tasks.start_soon(self._hear, tidings.of_mounts, _ON_DISK)
            tasks.start_soon(self._look_now_and_then)
        if NeedKind.USB in kinds:
            tasks.start_soon(self._hear, tidings.of_devices, {NeedKind.USB})
        if NeedKind.NETWORK in kinds:
            tasks.start_soon(self._hear, tidings.of_network, {NeedKind.NETWORK})

    async def _hear(self, listen: Callable[[tidings.Tell], Awaitable[None]], kinds: set[NeedKind]) -> None:
        """Listen for ever; each hint is one reconsideration, however many come meanwhile."""
        name = getattr(listen, "func", listen).__name__
        while True:
            hint = _Bell()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._answer, name, hint, kinds)
                    await listen(hint.ring)
            except* OSError as errors:
                problem = f"changes {name.replace('_', ' ')} cannot be noticed: {errors.exceptions[0]}"
                self._world.tell(name, f"{problem}; they are looked for every {AGAIN_S:g} s")
                self._log.error("needs: cannot listen", why=str(errors.exceptions[0]), what=name)
            await self.reconsider(kinds)
            await anyio.sleep(AGAIN_S)

    async def _answer(self, name: str, hint: _Bell, kinds: set[NeedKind]) -> None:
        while True:
            await hint.wait()
            await self.reconsider(kinds)
            self._world.tell(name, "")

    async def _look_now_and_then(self) -> None:
        while True:
            await anyio.sleep(PATHS_AGAIN_S)
            await self.reconsider({NeedKind.PATH})


class _Bell:
    """Rung any number of times, answered once."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung = anyio.Event()
