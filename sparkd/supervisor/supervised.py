"""One service under supervision: the loop that starts it, watches it and starts it again.

Theory of operation: `keep` is the only task that changes what happens to a service, and it changes its state only
through the table in `sparkd.states`. What others want is left in `wanted` and `_again` and said by `poke`. A turn of
`keep` takes a fresh `_poked` before it looks at anything, so whatever is said from then on ends its next wait. So no
two things ever happen to a service at once, every state has one place where it begins, and nothing that is said is
missed. A mistake of ours in a turn costs this service a pause, and no other service anything.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

import anyio

from sparkd.log import StructuredLog
from sparkd.states import TRANSITIONS, Cue, State
from sparkd.supervisor.failure import end_of, tidy
from sparkd.supervisor.launch import Instance, Launcher, Plan
from sparkd.supervisor.policy import End, EndKind, RestartPolicy
from sparkd.supervisor.watchdog import first_hang

STOP_LIMIT_S = 2.0
"""How long a service may take to clean up; the daemon as a whole must stop within 5 s."""
FAULT_PAUSE_S = 10.0
"""After a mistake of the supervisor's own."""


class Wanted(StrEnum):
    """What the operator, the config or the power policy wants of a service."""

    RUN = "run"
    STOP = "stop"
    DISABLE = "disable"
    SHED = "shed"


_REST = {Wanted.STOP: Cue.STOP, Wanted.DISABLE: Cue.DISABLE, Wanted.SHED: Cue.SHED}


def _set_event() -> anyio.Event:
    event = anyio.Event()
    event.set()
    return event


async def _nothing_missing(_plan: Plan) -> End | None:
    return None


@dataclass(eq=False, kw_only=True)
class Supervised:
    """A service, its state and why it is in it. Public fields are for reading; change things through methods."""

    plan: Plan
    launcher: Callable[[Plan], Launcher]
    missing: Callable[[Plan], Awaitable[End | None]] = _nothing_missing
    """Returns what the service needs and is not there; None if nothing is missing."""
    on_change: Callable[[Supervised], None] = lambda _service: None
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    wanted: Wanted = Wanted.RUN
    state: State = State.STOPPED
    since: float = field(default_factory=time.time)
    end: End = field(default_factory=lambda: End(kind=EndKind.STOPPED))
    restarts: int = 0
    hangs: int = 0
    """How often its event loop did not answer, and it was killed."""
    failed: End | None = None
    """Its last failure; what it was stays to be read after the service runs again."""
    failed_at: float = 0.0
    """Wall clock."""
    retry_at: float = 0.0
    """Monotonic time of the next try, while in back-off, waiting or broken; 0 while it waits for what it needs."""
    instance: Instance | None = None
    attempted: anyio.Event = field(default_factory=anyio.Event)
    """Set after the first attempt to run it has ended one way or another: what READY waits for."""
    run_over: anyio.Event = field(default_factory=_set_event)
    """Set when the run under way is over and the state tells of it; every run has its own."""
    _poked: anyio.Event = field(default_factory=anyio.Event)
    _rest_end: End = field(default_factory=lambda: End(kind=EndKind.STOPPED))
    """Why it rests, while it is shed."""
    _again: bool = False
    """Whether the run under way is to be ended and followed by another."""
    _complaint: End | None = None
    """What the service said it lacks before it was seen to be ready."""
    _ready_at: float = 0.0

    @property
    def name(self) -> str:
        """The service's name."""
        return self.plan.name

    @property
    def is_poked(self) -> bool:
        """Whether something was said that `keep` has not looked at yet."""
        return self._poked.is_set()

    async def keep(self) -> None:
        """Run the service as wanted, until cancelled."""
        while True:
            try:
                await self._turn()
            except Exception as error:  # noqa: BLE001 - one keeper's failure would end those of all services
                await self._recoil(error)

    def want(self, wanted: Wanted) -> None:
        """Set what is wanted of the service; it is on its way when this returns."""
        self.wanted = wanted
        if wanted is Wanted.RUN:
            self.policy.forget()
        self.poke()

    def shed(self, reason: str, remedy: str) -> None:
        """Let it rest for *reason* until something else is wanted of it."""
        self._rest_end = tidy(End(kind=EndKind.STOPPED, reason=reason, remedy=remedy))
        if self.state is State.SHED:
            self.end = self._rest_end
        self.want(Wanted.SHED)

    def poke(self) -> None:
        """Say that something has changed, so that waiting or being broken is worth reconsidering."""
        self._poked.set()

    def replan(self, plan: Plan) -> None:
        """Run it by *plan* from the next start on."""
        self.plan = plan
        self.policy.forget()

    def ask_restart(self) -> anyio.Event:
        """Let `keep` end the run under way, if there is one, and start another; what is shed stays shed.

        Return the event of the old run's being over; it is set already if there is none.
        """
        if self.wanted is not Wanted.SHED:
            self.wanted = Wanted.RUN
        self.policy.forget()
        self._again = True
        self.poke()
        return self.run_over

    async def restart(self) -> None:
        """Start it again, and return once the run under way, if there is one, is over."""
        await self.ask_restart().wait()

    def leave(self) -> None:
        """Let `keep` end the run under way, and look again at what the service needs."""
        self._again = True
        self.poke()

    def degrade(self, reason: str, remedy: str) -> None:
        """Take the service's word that it runs with less than it wants."""
        complaint = tidy(End(kind=EndKind.MISSING, reason=reason, remedy=remedy))
        if self.state is State.STARTING:
            self._complaint = complaint  # it may be ready already, and only we have not seen it yet
        elif self.state in (State.RUNNING, State.DEGRADED):
            self.end = complaint
            self._cue(Cue.DEGRADE)

    def recover(self) -> None:
        """Take the service's word that it has all it wants again."""
        self._complaint = None
        if self.state is State.DEGRADED:
            self.end = End(kind=EndKind.STOPPED)
            self._cue(Cue.RECOVER)

    async def _turn(self) -> None:
        self._poked = anyio.Event()
        if self.wanted is not Wanted.RUN:
            await self._rest(_REST[self.wanted])
        elif (missing := await self.missing(self.plan)) is not None:
            await self._miss(missing)
        elif (pause_s := await self._run()) is not None:
            with anyio.move_on_after(pause_s):
                await self._poked.wait()

    async def _rest(self, cue: Cue) -> None:
        if TRANSITIONS[self.state].get(cue, self.state) is not self.state:
            if cue is Cue.SHED:
                self.end = self._rest_end
            self._cue(cue)
        self.attempted.set()
        await self._poked.wait()

    async def _miss(self, end: End) -> None:
        self.end = end
        self.retry_at = 0.0
        self._cue(Cue.MISS)
        self.attempted.set()
        await self._poked.wait()

    async def _recoil(self, error: Exception) -> None:
        """Show *error* as the service's own end, whatever the table says, and wait before the next turn."""
        StructuredLog("core").error("supervisor failed", exc_info=error, service=self.name)
        self.end = end_of(error)
        self.retry_at = time.monotonic() + FAULT_PAUSE_S
        self._enter(State.BACKOFF)
        self.attempted.set()
        with anyio.move_on_after(FAULT_PAUSE_S):
            await self._poked.wait()

    async def _run(self) -> float | None:
        """Run it once; return how long to wait before the next run, None for not at all."""
        self._again, self._complaint, self._ready_at = False, None, 0.0
        over = self.run_over = anyio.Event()
        try:
            self._cue(Cue.START)
            return self._after(await self._run_once())
        finally:
            over.set()

    async def _run_once(self) -> End:
        end = End(kind=EndKind.FAILED, reason="its run was cut off")
        try:
            async with self.launcher(self.plan).launch(self.plan) as instance:
                self.instance = instance
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._watch, instance)
                    tg.start_soon(self._stop_when_unwanted, instance)
                    end = await instance.ended()
                    tg.cancel_scope.cancel()
        except OSError as error:
            end = End(kind=EndKind.FAILED, reason=f"cannot be started: {error}", remedy="see free memory and processes")
        finally:
            self.instance = None
        return end

    async def _watch(self, instance: Instance) -> None:
        with anyio.move_on_after(self.plan.start_limit_s) as start:
            await instance.ready()
        if start.cancelled_caught:
            reason = f"did not call started() within {self.plan.start_limit_s:g} s"
            await instance.kill(
                End(kind=EndKind.FAILED, reason=reason, remedy="raise start_limit_s if it needs longer")
            )
            return
        if self.state is not State.STARTING:  # it is being stopped, and became ready on the way
            return
        self._ready_at = time.monotonic()
        self.end = End(kind=EndKind.STOPPED)
        self._cue(Cue.READY)
        self.attempted.set()
        if self._complaint is not None:
            self.degrade(self._complaint.reason, self._complaint.remedy)
        if self.plan.watchdog_s:
            end = await first_hang(instance, self.plan.watchdog_s)
            self.hangs += 1
            await instance.kill(end)

    async def _stop_when_unwanted(self, instance: Instance) -> None:
        while self.wanted is Wanted.RUN and not self._again:
            await self._poked.wait()
            self._poked = anyio.Event()
        self._cue(Cue.STOP)
        await instance.stop(STOP_LIMIT_S)

    def _after(self, end: End) -> float | None:
        """Enter the state that follows *end*; return how long to wait before the next run."""
        if self.state is State.STOPPING:
            shed = self.wanted is Wanted.SHED
            self.end = self._rest_end if shed else End(kind=EndKind.STOPPED)
            self._cue(Cue.SHED if shed else Cue.STOPPED)
            return None
        if end.kind is EndKind.STOPPED:
            end = End(kind=EndKind.FAILED, reason="it stopped, and nobody had asked it to")
        self.end = tidy(end)
        if end.kind in (EndKind.FAILED, EndKind.SIGNALLED):
            self.failed, self.failed_at = self.end, time.time()
        if end.kind is EndKind.FINISHED:
            self.wanted = Wanted.STOP
            self._cue(Cue.FINISH)
            return None
        now = time.monotonic()
        verdict = self.policy.ended(end, now=now, healthy_s=now - self._ready_at if self._ready_at else 0.0)
        self.restarts += 1
        self.retry_at = now + verdict.pause_s
        self._cue(Cue.GIVE_UP if verdict.broken else Cue.MISS if end.kind is EndKind.MISSING else Cue.FAIL)
        self.attempted.set()
        return verdict.pause_s

    def _cue(self, cue: Cue) -> None:
        try:
            self._enter(TRANSITIONS[self.state][cue])
        except KeyError:
            raise ValueError(f"{self.name} in state {self.state} cannot take the cue {cue}") from None

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = time.time()
        try:
            self.on_change(self)
        except Exception as error:  # noqa: BLE001 - who is told of a change must not decide what becomes of it
            StructuredLog("core").error("listener failed", exc_info=error, service=self.name)
