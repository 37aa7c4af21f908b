"""Running a service as a systemd unit of its own: what a `ProcessInstance` needs of a process, done by the root daemon.

Theory of operation. The launcher makes the socket that takes what the unit writes, opens the node's sockets to other
users, and asks sparkd-priv for the unit; root's config says what it looks like. The unit's process connects to that
socket twice, for its output and for how it ended, and is known there by its pid; and to `calls`, where it is known by
its token. A pidfd says when it has ended; then sparkd-priv removes what is left of the unit and says how systemd saw it
end. So everything above, from ping to stack, is as with a child of the zygote.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
from anyio.abc import TaskGroup

from sparkd.child import ChildSpec
from sparkd.deeds import Deed, UnitDump, UnitStart, UnitState, UnitStop, ask
from sparkd.errors import DeviceError
from sparkd.log import StructuredLog, parse_line
from sparkd.supervisor.launch import Instance, Plan
from sparkd.supervisor.outlet import Outlet, listening
from sparkd.supervisor.policy import End, EndKind
from sparkd.supervisor.processes import ProcessInstance, Surroundings, placed
from sparkd.supervisor.stuck import Output
from sparkd.zygote import Exit

SOCKETS = ("calls", "bus.pub", "bus.sub")
"""What a unit reaches of the core; their folder stays closed to others, and each of them asks who is there."""
OPEN_MODE = 0o666
FOLDER = "units"
EX_UNUSABLE = 78
"""The unit's interpreter cannot run the core's packages; its last line says why (`sparkd.unit`)."""
DUMP_LIMIT_S = 3.0
"""The signal for a dump goes by way of sparkd-priv, which may have to be started for it."""
_SIGNALLED = {"signal", "core-dump", "oom-kill", "watchdog", "timeout"}


@dataclass(frozen=True, kw_only=True)
class UnitSurroundings:
    """What the launcher of units needs besides what all need."""

    priv: Path
    """The socket of sparkd-priv."""
    runtime: Path
    desk: Callable[[Plan], AbstractAsyncContextManager[None]]
    """Lets the core write the service's outbox while the block runs."""


class UnitLauncher:
    """Starts services as systemd units."""

    def __init__(self, around: Surroundings, units: UnitSurroundings) -> None:
        """Start them by *units*."""
        self._around, self._units = around, units

    @asynccontextmanager
    async def launch(self, plan: Plan) -> AsyncIterator[Instance]:
        """Start a unit for *plan*; leaving ends what is left of it.

        If it cannot be started the instance has ended at once, for want of what its reason says.
        """
        around = self._around
        token, ready = around.entrance.expect(plan.name, guest=True)
        output = Output(dump_limit_s=DUMP_LIMIT_S)

        def on_line(line: str) -> None:
            output.add(line)
            around.on_line(plan.name, line)

        try:
            async with self._units.desk(plan), anyio.create_task_group() as tasks:
                with listening(self._units.runtime / FOLDER / plan.name) as listener:
                    child = UnitChild(plan, self._units.priv, tasks, on_line)
                    await child.start(self._spec(plan, token), self._units.runtime, listener)
                    try:
                        yield ProcessInstance(plan, child, ready, around.reach(plan.name), output)
                    finally:
                        around.gone(plan.name)
                        with anyio.CancelScope(shield=True):
                            await child.remove()
                        tasks.cancel_scope.cancel()
        finally:
            around.entrance.forget(plan.name, ready)
            around.gone(plan.name)

    def _spec(self, plan: Plan, token: str) -> bytes:
        around = self._around
        place = placed(around.place(token), plan)
        bus = msgspec.structs.replace(place.bus, shm_max_bytes=0)  # it sees no shared memory but its own
        spec = ChildSpec(
            source=plan.source,
            service=plan.name,
            place=msgspec.structs.replace(place, bus=bus, remote_outbox=True),
            log_level=around.log_level(plan.name),
            table=plan.table.table,
            origin=plan.table.origin,
            origins=dict(plan.table.origins),
        )
        return msgspec.msgpack.encode(spec)


class UnitChild:
    """The process of a unit, with the manners of a child of the zygote."""

    def __init__(self, plan: Plan, priv: Path, tasks: TaskGroup, on_line: Callable[[str], None]) -> None:
        """Ask for it at *priv*; hand each line it writes to *on_line*."""
        self._plan, self._priv, self._tasks, self._on_line = plan, priv, tasks, on_line
        self._plugin = plan.manifest.plugin
        self._result = b""
        self._last_line = ""
        self._how = Exit(code=0)
        self._started = self._removed = False
        self._gone = anyio.Event()
        self._pid = 0

    @property
    def pid(self) -> int:
        """The unit's own process; 0 if it never began."""
        return self._pid

    async def start(self, spec: bytes, runtime: Path, listener: socket.socket) -> None:
        """Have the unit started. What keeps it from starting is how it ended."""
        try:
            await anyio.to_thread.run_sync(_open_to_others, runtime)
            done = await self._ask(UnitStart(plugin=self._plugin, service=self._plan.name, spec=spec))
        except DeviceError as error:
            self._say(End(kind=EndKind.MISSING, reason=str(error), remedy=error.remedy))
            self._gone.set()
            return
        self._started = True
        try:
            self._pid = done.pid if done else 0
            pidfd = os.pidfd_open(self.pid)
        except OSError:  # it had ended before anybody could look: systemd says how
            Outlet(listener, self._take_line).finish(self.pid)
            self._take_state(await self.remove())
            self._gone.set()
            return
        self._tasks.start_soon(self._follow, listener, pidfd)

    async def wait(self) -> Exit:
        """Return how it ended, after it has, and after what it wrote has been handed on."""
        await self._gone.wait()
        return self._how

    async def result(self) -> bytes:
        """Return what it, or systemd, says of its end."""
        await self._gone.wait()
        return self._result

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Have the unit ended: at once, or with SIGTERM in order. Other signals have no way to it."""
        if number in {signal.SIGKILL, signal.SIGTERM} and not self._gone.is_set():
            self._tasks.start_soon(self._end, number == signal.SIGKILL)

    def dump(self) -> None:
        """Have it write where each of its threads is, even if it is stuck."""
        if not self._gone.is_set():
            self._tasks.start_soon(self._try, UnitDump(plugin=self._plugin, service=self._plan.name))

    async def remove(self) -> UnitState | None:
        """Return how systemd saw it end, once nothing of it is left."""
        if self._removed or not self._started:
            return None
        self._removed = True
        return await self._end(at_once=True)

    async def _end(self, at_once: bool) -> UnitState | None:  # noqa: FBT001 - started as a task
        return await self._try(UnitStop(plugin=self._plugin, service=self._plan.name, at_once=at_once))

    async def _try(self, deed: Deed) -> UnitState | None:
        try:
            return await self._ask(deed)
        except DeviceError as error:
            StructuredLog("core").warning("unit out of reach", service=self._plan.name, why=str(error))
            return None

    async def _ask(self, deed: Deed) -> UnitState | None:
        return (await ask(self._priv, deed)).unit

    async def _follow(self, listener: socket.socket, pidfd: int) -> None:
        """Take what the process writes until it has ended; then learn how."""
        outlet = Outlet(listener, self._take_line)
        try:
            async with anyio.create_task_group() as readers:
                readers.start_soon(outlet.follow, self.pid)
                await anyio.wait_readable(pidfd)
                readers.cancel_scope.cancel()
            outlet.finish(self.pid)
            self._result = outlet.result
            self._take_state(await self.remove())
        finally:
            os.close(pidfd)
            self._gone.set()

    def _take_line(self, line: str) -> None:
        self._last_line = line
        self._on_line(line)

    def _take_state(self, state: UnitState | None) -> None:
        """Say what systemd saw, where the process itself had no time to say anything."""
        if state is None:
            return
        if state.result in _SIGNALLED:
            self._how = Exit(signal=state.status or signal.SIGKILL)
        else:
            self._how = Exit(code=state.status)
        if state.result == "oom-kill":
            remedy = f"raise memory_max_bytes in [plugins.{self._plugin}.unit], or let it hold less"
            self._say(End(kind=EndKind.FAILED, reason="killed by the kernel: out of memory", remedy=remedy))
        elif state.status == EX_UNUSABLE and not self._result:
            remedy = f"correct [plugins.{self._plugin}.unit]"
            self._say(End(kind=EndKind.MISCONFIGURED, reason=parse_line(self._last_line)[1], remedy=remedy))

    def _say(self, end: End) -> None:
        self._result = msgspec.msgpack.encode(end)


def _open_to_others(runtime: Path) -> None:
    """Let units, which have users of their own, connect; done only once there is one."""
    for name in SOCKETS:
        (runtime / name).chmod(OPEN_MODE)
