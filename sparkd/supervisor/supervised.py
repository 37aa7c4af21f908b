"""One service under supervision: the loop that starts it, watches it and starts it again.

Theory of operation: `keep` is the only task that changes the state, and it does so only through the table in
`sparkd.states`. What others want is left in `wanted` and `poke`; `keep` looks at them at its waiting points. So no two
things ever happen to a service at once, and every state has one place where it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import anyio

from sparkd.states import TRANSITIONS, Cue, State
from sparkd.supervisor.launch import Instance, Launcher, Plan
from sparkd.supervisor.policy import End, EndKind, RestartPolicy

STOP_LIMIT_S = 2.0
"""How long a service may take to clean up; the daemon as a whole must stop within 5 s."""


class Wanted(StrEnum):
    """What the operator, the config or the power policy wants of a service."""

    RUN = "run"
    STOP = "stop"
    DISABLE = "disable"
    SHED = "shed"


_REST = {Wanted.STOP: Cue.STOP, Wanted.DISABLE: Cue.DISABLE, Wanted.SHED: Cue.SHED}


@dataclass(eq=False, kw_only=True)
class Supervised:
    """A service, its state and why it is in it. Public fields are for reading; change things through methods."""

    plan: Plan
    launcher: Callable[[Plan], Launcher]
    missing: Callable[[Plan], str | None] = lambda _plan: None
    """Returns what the service needs and is not there, as a sentence; None if nothing is."""
    on_change: Callable[[Supervised], None] = lambda _service: None
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    wanted: Wanted = Wanted.RUN
    state: State = State.STOPPED
    since: float = field(default_factory=time.time)
    end: End = field(default_factory=lambda: End(kind=EndKind.STOPPED))
    restarts: int = 0
    retry_at: float = 0.0
    """Monotonic time of the next try, while in back-off, waiting or broken."""
    instance: Instance | None = None
    attempted: anyio.Event = field(default_factory=anyio.Event)
    """Set after the first attempt to run it has ended one way or another: what READY waits for."""
    _poked: anyio.Event = field(default_factory=anyio.Event)
    _run_over: anyio.Event = field(default_factory=anyio.Event)
    _ready_at: float = 0.0

    @property
    def name(self) -> str:
        """The service's name."""
        return self.plan.name

    async def keep(self) -> None:
        """Run the service as wanted, until cancelled."""
        while True:
            if self.wanted is not Wanted.RUN:
                await self._rest()
                continue
            missing = self.missing(self.plan)
            if missing:
                await self._miss(End(kind=EndKind.MISSING, reason=missing))
                continue
            self._poked = anyio.Event()
            self._run_over = anyio.Event()
            try:
                end = await self._run_once()
                pause_s = self._after(end)
            finally:
                self._run_over.set()
            if pause_s is not None:
                with anyio.move_on_after(pause_s):
                    await self._poked.wait()

    def want(self, wanted: Wanted) -> None:
        """Set what is wanted of the service; it is on its way when this returns."""
        self.wanted = wanted
        if wanted is Wanted.RUN:
            self.policy.forget()
        self.poke()

    def poke(self) -> None:
        """Say that something has changed, so that waiting or being broken is worth reconsidering."""
        self._poked.set()

    def replan(self, plan: Plan) -> None:
        """Run it by *plan* from the next start on."""
        self.plan = plan
        self.policy.forget()

    async def restart(self) -> None:
        """Stop what runs, if anything does, and let `keep` start it again at once."""
        self.policy.forget()
        self.wanted = Wanted.RUN
        if self.instance is not None:
            over = self._run_over
            await self.instance.stop(STOP_LIMIT_S)
            await over.wait()  # until the state tells of it
        self.poke()

    def degrade(self, reason: str, remedy: str) -> None:
        """Take the service's word that it runs with less than it wants."""
        if self.state in (State.RUNNING, State.DEGRADED):
            self.end = End(kind=EndKind.MISSING, reason=reason, remedy=remedy)
            self._cue(Cue.DEGRADE)

    def recover(self) -> None:
        """Take the service's word that it has all it wants again."""
        if self.state is State.DEGRADED:
            self.end = End(kind=EndKind.STOPPED)
            self._cue(Cue.RECOVER)

    async def _rest(self) -> None:
        self._poked = anyio.Event()
        cue = _REST[self.wanted]
        if TRANSITIONS[self.state].get(cue, self.state) is not self.state:
            self._cue(cue)
        self.attempted.set()
        await self._poked.wait()

    async def _miss(self, end: End) -> None:
        self.end = end
        self._poked = anyio.Event()
        if self.state is not State.WAITING:
            self._cue(Cue.MISS)
        self.attempted.set()
        await self._poked.wait()

    async def _run_once(self) -> End:
        self._cue(Cue.START)
        self._ready_at = 0.0
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
        self._ready_at = time.monotonic()
        self.end = End(kind=EndKind.STOPPED)
        self._cue(Cue.READY)
        self.attempted.set()
        if self.plan.watchdog_s:
            await self._keep_alive(instance, self.plan.watchdog_s)

    async def _keep_alive(self, instance: Instance, limit_s: float) -> None:
        while True:
            with anyio.move_on_after(limit_s) as answered:
                await instance.ping()
            if answered.cancelled_caught:
                reason = f"its event loop did not answer for {limit_s:g} s"
                remedy = "move the blocking call to a thread (anyio.to_thread.run_sync)"
                await instance.kill(End(kind=EndKind.FAILED, reason=reason, remedy=remedy))
                return
            await anyio.sleep(limit_s / 2)

    async def _stop_when_unwanted(self, instance: Instance) -> None:
        while self.wanted is Wanted.RUN:
            await self._poked.wait()
            if self.wanted is Wanted.RUN:
                self._poked = anyio.Event()
        self._cue(Cue.STOP)
        await instance.stop(STOP_LIMIT_S)

    def _after(self, end: End) -> float | None:
        """Enter the state that follows *end*; return how long to wait before the next run, None for not at all."""
        if self.state is State.STOPPING:
            self.end = End(kind=EndKind.STOPPED)
            self._cue(Cue.SHED if self.wanted is Wanted.SHED else Cue.STOPPED)
            return None
        if end.kind is EndKind.STOPPED:  # for a restart
            self._cue(Cue.FINISH)
            return None
        self.end = end
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
        self.on_change(self)
