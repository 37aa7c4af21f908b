"""Running a service as a child of the zygote, or as a task of the core: the two kinds of instances."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import anyio
import msgspec

from sparkd.cgroups import Group
from sparkd.child import SERVICE, ChildSpec, decode_end
from sparkd.config import decode_table
from sparkd.core_interfaces import HostApi
from sparkd.errors import CallError
from sparkd.host import Place, run_host
from sparkd.log import StructuredLog
from sparkd.registry import load_service, where_in_dump
from sparkd.service import Service
from sparkd.supervisor.failure import end_of, innermost
from sparkd.supervisor.launch import Instance, Plan
from sparkd.supervisor.policy import End, EndKind
from sparkd.supervisor.stuck import Output, Process, Stuck, note_on, process_state, starved_s, stuck_in
from sparkd.zygote import Child, Exit, Zygote

STACK_LIMIT_S = 1.0
"""How long a loop that runs may take to say where its service waits."""
STOPPED_REMEDY = "see who stopped it (kill -STOP, a full disk, a dead mount), or give it a longer watchdog_s"
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
"""Signals that a process brings upon itself."""


class Reach(Protocol):
    """How the core talks to the host of a service."""

    def __call__(self, service: str) -> HostApi:
        """Return a stand-in for the host."""
        ...


@dataclass
class Entrance:
    """Which hosts are expected, and which have come: what `supervisor.hello` and `ready` are checked against."""

    tokens: dict[str, str] = field(default_factory=dict)
    ready: dict[str, anyio.Event] = field(default_factory=dict)
    guests: set[str] = field(default_factory=set)
    """The services whose hosts run as another user."""

    def expect(self, service: str, *, guest: bool = False) -> tuple[str, anyio.Event]:
        """Return the one-time token for a new host of *service*, and the event of its being ready.

        A *guest* may come from another user.
        """
        (self.guests.add if guest else self.guests.discard)(service)
        token = self.tokens[service] = secrets.token_hex(16)
        event = self.ready[service] = anyio.Event()
        return token, event

    def verify(self, service: str, token: str) -> bool:
        """Whether *token* is the one expected; it is good once."""
        expected = self.tokens.get(service)
        if expected is None or not secrets.compare_digest(expected.encode(), token.encode()):
            return False
        del self.tokens[service]
        return True

    def is_ready(self, service: str) -> None:
        """Take the word of the host that its service has started."""
        if service in self.ready:
            self.ready[service].set()

    def forget(self, service: str, ready: anyio.Event) -> None:
        """Expect nothing more of the host of *service* that *ready* was for; a newer one is still expected."""
        if self.ready.get(service) is ready:
            self.tokens.pop(service, None)
            self.guests.discard(service)
            del self.ready[service]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What both kinds of launchers need."""

    place: Callable[[str], Place]
    """Returns the place of a host with the token given."""
    entrance: Entrance
    reach: Reach
    gone: Callable[[str], None]
    """Told when an instance of a service has ended."""
    on_line: Callable[[str, str], None]
    """Told each line that a service writes."""
    log_level: Callable[[str], str] = lambda _service: "info"
    env: Callable[[str], Mapping[str, str]] = lambda _service: {}
    group: Callable[[Plan], Group | None] = lambda _plan: None
    """Makes the control group of a run; None where there are none. Raises OSError."""
    limits_address_space: bool = True
    """Whether a memory limit is that of the address space, because no group keeps it."""


def placed(place: Place, plan: Plan) -> Place:
    """Return *place* with what the table of the service's own plugin says of it."""
    own = (
        ("flood_messages_per_s", plan.table.publish_messages_per_s),
        ("flood_bytes_per_s", plan.table.publish_bytes_per_s),
    )
    said = {name: value for name, value in own if value is not None}
    return msgspec.structs.replace(place, bus=msgspec.structs.replace(place.bus, **said))


class ProcessLauncher:
    """Starts services as children of the zygote."""

    def __init__(self, zygote: Zygote, around: Surroundings) -> None:
        """Fork from *zygote*."""
        self._zygote, self._around = zygote, around

    @asynccontextmanager
    async def launch(self, plan: Plan) -> AsyncIterator[Instance]:
        """Start a child for *plan*; leaving kills what is left of it. Raises OSError if the kernel refuses."""
        around = self._around
        token, ready = around.entrance.expect(plan.name)
        try:
            async with self._group(plan) as group, self._child(plan, token, group) as (child, output):
                yield ProcessInstance(plan, child, ready, around.reach(plan.name), output, group=group)
        finally:
            around.entrance.forget(plan.name, ready)
            around.gone(plan.name)

    @asynccontextmanager
    async def _group(self, plan: Plan) -> AsyncIterator[Group | None]:
        """Make the run's control group; leaving kills all that is in it, in whatever session."""
        group = self._around.group(plan)
        try:
            yield group
        finally:
            if group is not None:
                with anyio.CancelScope(shield=True):
                    await group.remove()

    @asynccontextmanager
    async def _child(self, plan: Plan, token: str, group: Group | None) -> AsyncIterator[tuple[Child, Output]]:
        """Fork a child, with its last lines; leaving kills it and whatever it started."""
        around = self._around
        output = Output()

        def on_line(line: str) -> None:
            output.add(line)
            around.on_line(plan.name, line)

        spec = ChildSpec(
            source=plan.source,
            service=plan.name,
            place=placed(around.place(token), plan),
            log_level=around.log_level(plan.name),
            table=plan.table.table,
            origin=plan.table.origin,
            origins=dict(plan.table.origins),
        )
        child = await self._zygote.spawn(
            SERVICE,
            msgspec.msgpack.encode(spec),
            name=plan.name,
            env=around.env(plan.name),
            memory_bytes=plan.table.memory_max_bytes if around.limits_address_space else 0,
            open_files=plan.table.open_files_max,
            cgroup=str(group.path) if group is not None else "",
            on_line=on_line,
        )
        try:
            yield child, output
        finally:
            child.kill()
            with anyio.CancelScope(shield=True):
                await child.wait()


class ProcessInstance:
    """A service in a child process."""

    def __init__(
        self,
        plan: Plan,
        child: Process,
        ready: anyio.Event,
        host: HostApi,
        output: Output,
        *,
        group: Group | None = None,
    ) -> None:
        """Watch *child*; *output* holds its last lines, *group* is its control group."""
        self._group = group
        self._plan, self._child, self._ready, self._host, self._output = plan, child, ready, host, output
        self._end: End | None = None
        self._asked = False
        self._unanswered = False
        self._killing: anyio.Event | None = None

    @property
    def pid(self) -> int | None:
        """The child's process."""
        return self._child.pid or None

    async def ready(self) -> None:
        """Return once the service has started."""
        await self._ready.wait()

    async def ping(self) -> None:
        """Return once its event loop has answered."""
        self._unanswered = True
        await self._host.ping()
        self._unanswered = False

    def starved_s(self) -> float:
        """Return for how long its main thread has waited for a processor."""
        return starved_s(self._child.pid)

    def is_traced(self) -> bool:
        """Whether a debugger holds its process."""
        return process_state(self._child.pid) == "t"

    async def ended(self) -> End:
        """Return how it ended."""
        how = await self._child.wait()
        if self._killing is not None:  # the signal for the dump may end a blocking call, and so the service itself
            await self._killing.wait()
        if self._end is not None:
            return self._end
        if self._asked:
            return End(kind=EndKind.STOPPED)
        return await self._said() or self._from_exit(how)

    async def stop(self, limit_s: float) -> None:
        """Ask it to stop; kill it after *limit_s*."""
        self._asked = True
        with anyio.move_on_after(limit_s) as limit:
            try:
                await self._host.stop()
            except CallError:  # it is not connected: nothing to wait for but the process
                self._child.kill(signal.SIGTERM)
            await self._child.wait()
        if limit.cancelled_caught:
            self._child.kill()
            await self._child.wait()

    async def kill(self, end: End) -> None:
        """Kill it; the end is *end*, with the line where it is stuck and the stacks of its threads."""
        killing = self._killing = anyio.Event()
        try:
            self._end = await self._told_where(end)
        finally:
            killing.set()
        self._child.kill()

    async def _told_where(self, end: End) -> End:
        stuck = await self._stuck()
        reason = f"{end.reason}: {stuck.note}" if stuck.note else end.reason
        remedy = STOPPED_REMEDY if stuck.note else end.remedy
        return replace(end, reason=reason, remedy=remedy, file=stuck.file, line=stuck.line, stack=stuck.stack)

    async def _said(self) -> End | None:
        try:
            return decode_end(await self._child.result())
        except ValueError:  # too much of it: whatever wrote there, it was not our host
            return None

    async def _stuck(self) -> Stuck:
        home = self._plan.source.home
        if not self._unanswered:  # a loop that left a ping unanswered has nothing to say
            with anyio.move_on_after(STACK_LIMIT_S):
                try:
                    lines = (await self._host.stack()).splitlines()
                    return Stuck(*_own_frame(lines, home), tuple(reversed(lines)))
                except CallError:  # not connected yet: the dump tells
                    pass
        note = note_on(process_state(self._child.pid))
        return stuck_in(await self._output.dump_of(self._child, resume=bool(note)), home, note=note)

    def _from_exit(self, how: Exit) -> End:
        file, line = where_in_dump(list(self._output.lines), self._plan.source.home)
        if how.signal == signal.SIGKILL and self._group is not None and self._group.oom_kills():
            limit = self._plan.table.memory_max_bytes
            reason = f"it was killed for holding more memory than memory_max_bytes = {limit} lets it"
            if not limit:
                reason = "it was killed because the machine was out of memory"
            return End(kind=EndKind.FAILED, reason=reason, remedy="raise its limit, or let it hold less")
        if how.signal is not None and how.signal not in _CRASHES:
            return End(kind=EndKind.SIGNALLED, reason=f"{how}, from outside", remedy="see who sent it: journalctl -k")
        if how.signal is None and how.code == 0:
            return End(
                kind=EndKind.FAILED, reason="ended its process with exit code 0", remedy="return from run instead"
            )
        return End(kind=EndKind.FAILED, reason=f"ended: {how}", file=file, line=line)


def _own_frame(lines: list[str], home: Path) -> tuple[str, int]:
    """Return file and line of the innermost frame in the plugin's own files, else of the innermost."""
    frames = []
    for text in lines:
        place, _, _ = text.rpartition(" ")
        file, _, number = place.rpartition(":")
        if number.isdigit():
            frames.append((file, int(number)))
    own = [frame for frame in frames if Path(frame[0]).is_relative_to(home)]
    return (own or frames or [("", 0)])[-1]


class InlineLauncher:
    """Starts services as tasks of the core: light and trusted ones, since their failure to yield is the core's."""

    def __init__(self, around: Surroundings) -> None:
        """Run them in the core's event loop."""
        self._around = around

    @asynccontextmanager
    async def launch(self, plan: Plan) -> AsyncIterator[Instance]:
        """Start a task for *plan*; leaving cancels it."""
        around = self._around
        token, ready = around.entrance.expect(plan.name)
        instance = InlineInstance(plan, placed(around.place(token), plan), ready, around.reach(plan.name))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(instance.run, name=f"inline {plan.name}")
                try:
                    yield instance
                finally:
                    instance.cancel()
        finally:
            around.entrance.forget(plan.name, ready)
            around.gone(plan.name)


class InlineInstance:
    """A service in the core's own process."""

    def __init__(self, plan: Plan, place: Place, ready: anyio.Event, host: HostApi) -> None:
        """Run by *plan* at *place*."""
        self._plan, self._place, self._ready, self._host = plan, place, ready, host
        self._scope = anyio.CancelScope()  # its own: whoever watches it must hear of its end, not share it
        self._over = anyio.Event()
        self._end: End | None = None

    @property
    def pid(self) -> int | None:
        """None: it has no process of its own."""
        return None

    async def run(self) -> None:
        """Load and run the service; whatever it raises is its end."""
        end = End(kind=EndKind.STOPPED)
        try:
            with self._scope:
                end = await self._hosted()
        finally:
            self._end = self._end or end
            self._over.set()

    def cancel(self) -> None:
        """Let it clean up and end."""
        self._scope.cancel()

    async def _hosted(self) -> End:
        plan = self._plan
        try:
            service: Service[Any] = load_service(plan.source, plan.name)
            table, where = plan.table, f"plugins.{plan.source.name}"
            config = decode_table(service.config, table.table, where=where, origins=table.origins, file=table.origin)
            stopped = await run_host(service, config, self._place)
        except (Exception, SystemExit, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - a plugin may raise anything
            end = end_of(error, home=plan.source.home)
            # What is missing or misconfigured is told by its sentence; a traceback would only frighten.
            trace = innermost(error) if end.kind is EndKind.FAILED else None
            StructuredLog(plan.name).error("service failed", why=end.reason, exc_info=trace)
            return end
        return End(kind=EndKind.STOPPED if stopped else EndKind.FINISHED)

    async def ready(self) -> None:
        """Return once the service has started."""
        await self._ready.wait()

    async def ping(self) -> None:
        """Return once its host has answered."""
        await self._host.ping()

    def starved_s(self) -> float:
        """Return 0: it has the processor that the core has."""
        return 0.0

    def is_traced(self) -> bool:
        """Return False: what would hold it would hold the core."""
        return False

    async def ended(self) -> End:
        """Return how it ended."""
        await self._over.wait()
        return self._end or End(kind=EndKind.STOPPED)

    async def stop(self, limit_s: float) -> None:
        """Cancel it, and wait for its clean-up no longer than *limit_s*."""
        self._end = End(kind=EndKind.STOPPED)
        self.cancel()
        with anyio.move_on_after(limit_s):
            await self._over.wait()
        self._over.set()

    async def kill(self, end: End) -> None:
        """Cancel it; the end is *end*."""
        self._end = end
        self.cancel()
        self._over.set()
