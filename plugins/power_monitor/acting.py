"""Doing what the mode asks for: services rest, are slowed and come back; each deed is told once, also in a dry run.

What is done is the difference between what the mode asks for and what was done before, so each deed comes once. One
that an operator starts meanwhile stays up until a worse mode asks for its rest anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

import anyio

from sparkd import CallError, Context, PowerActed, PowerAction, SheddingApi, StorageError, Troubles

from .config import PowerMonitorConfig
from .modes import Mode
from .policy import Wanted, back, wanted

KEPT_ACTIONS = 100
RETRY_S = 5.0
TROUBLE = "actions"
SELF = "power-monitor"

Told = Literal["planned", "done", "failed", "dry-run", "cancelled"]


class Journal:
    """What was done: kept for `status`, published durably, logged."""

    def __init__(self, ctx: Context[Any], on_action: Callable[[PowerAction], None] = lambda _action: None) -> None:
        self._ctx = ctx
        self._on_action = on_action
        self.last: deque[PowerAction] = deque(maxlen=KEPT_ACTIONS)

    async def note(self, action: str, target: str, *, mode: Mode, state: Told, reason: str = "") -> None:
        """Tell of a deed."""
        done = PowerAction(action=action, target=target, mode=mode, state=state, reason=reason, at=time.time())
        self.last.append(done)
        self._on_action(done)
        tell = self._ctx.log.warning if state == "failed" else self._ctx.log.info
        tell("power action", action=action, target=target, mode=str(mode), state=state, reason=reason)
        try:
            await self._ctx.bus.publish(PowerActed(action=action, target=target, mode=mode, state=state, reason=reason))
        except StorageError as error:  # a full disk must not keep the node from saving power
            self._ctx.log.error("power action not stored", action=action, target=target, why=str(error))  # noqa: TRY400 - one line says it


class Actor:
    """Brings the services of this node to what the mode asks for."""

    def __init__(self, ctx: Context[PowerMonitorConfig], journal: Journal, troubles: Troubles) -> None:
        self._ctx = ctx
        self._journal = journal
        self._troubles = troubles
        self._shedding = ctx.call(SheddingApi, deadline_s=30.0)
        self._rests: set[str] = set()
        """Those this service had shed, or would have in a dry run."""
        self._slowed: dict[str, float] = {}
        self._failed = False
        self.known: frozenset[str] = frozenset()
        """The services there were when the policy was last applied."""

    async def services(self) -> Sequence[Any]:
        """Return the services of this node. Raises CallError."""
        return await self._shedding.services()

    async def apply(self, mode: Mode, lasted: dict[Mode, float], reason: str, *, turned: anyio.Event) -> Wanted | None:
        """Do what *mode* asks for, of which each mode has *lasted* so many seconds; return what it asks for.

        What fails is told, and tried again with the next call. Services come back one by one only until the mode has
        *turned*: the next may be needed at once. Raises CallError if the core does not answer.
        """
        services = await self.services()
        if not self.known:  # a run before this one may have done some of it
            self._rests |= {one.name for one in services if one.shed and one.by == SELF}
            self._slowed |= {one.name: one.throttle_percent for one in services if one.throttle_percent is not None}
        self.known = frozenset(one.name for one in services)
        asked = wanted(mode, lasted, self._ctx.config.policies(), services)
        if asked is None:
            return None
        self._failed = False
        mine = {one.name for one in services if one.shed and one.by == SELF}  # what others had shed is theirs
        resting = mine | (self._rests if self._ctx.config.dry_run else set())
        await self._shed(asked, mode, reason, services)
        await self._slow(asked, mode, reason)
        await self._restore(mode, turned, back([name for name in resting if name not in asked.shed], services))
        if self._failed:
            self._troubles.say(TROUBLE, "not all that the power mode asks for could be done", "sparkctl power")
        else:
            self._troubles.over(TROUBLE)
        return asked

    @property
    def retry_s(self) -> float | None:
        """When to try again what failed."""
        return RETRY_S if self._failed else None

    async def _shed(self, asked: Wanted, mode: Mode, reason: str, services: Sequence[Any]) -> None:
        energy = {one.name: one.energy for one in services}
        fresh = [name for name in asked.shed if name not in self._rests]
        for kind in dict.fromkeys(energy[name] for name in fresh):  # class by class, a class at once
            names = [name for name in fresh if energy[name] == kind]
            done = await self._do("shed", names, mode, reason, partial(self._rest, names, mode, reason))
            self._rests |= set(names) if done else set()
        self._rests &= set(asked.shed) | {one.name for one in services if one.shed}

    async def _rest(self, names: Sequence[str], mode: Mode, reason: str) -> None:
        await self._shedding.shed(services=list(names), reason=f"power is {mode}: {reason}")

    async def _slow(self, asked: Wanted, mode: Mode, reason: str) -> None:
        for name in [name for name in self._slowed if name not in asked.throttle and name not in asked.shed]:
            await self._do("unthrottle", [name], mode, "full speed", partial(self._hasten, name))
            self._slowed.pop(name, None)
        for name, percent in asked.throttle.items():
            if self._slowed.get(name) == percent:
                continue
            done = await self._do(
                "throttle",
                [name],
                mode,
                f"{percent:g} % of a processor: {reason}",
                partial(self._throttle, name, percent, mode),
            )
            if done:
                self._slowed[name] = percent

    async def _throttle(self, name: str, percent: float, mode: Mode) -> None:
        kept = await self._shedding.throttle(service=name, cpu_max_percent=percent, reason=f"power is {mode}")
        if not kept:  # nothing that another try would mend
            self._ctx.log.warning("service not slowed: the daemon has no control group of its own", service=name)

    async def _hasten(self, name: str) -> None:
        await self._shedding.unthrottle(service=name)

    async def _restore(self, mode: Mode, turned: anyio.Event, names: Sequence[str]) -> None:
        for at, name in enumerate(names):
            if at and not self._ctx.config.dry_run:
                with anyio.move_on_after(self._ctx.config.restore_step_s):
                    await turned.wait()
            if turned.is_set():
                return
            if await self._do("restore", [name], mode, "", partial(self._bring_back, name)):
                self._rests.discard(name)

    async def _bring_back(self, name: str) -> None:
        await self._shedding.restore(services=[name])

    async def _do(
        self, action: str, names: Sequence[str], mode: Mode, reason: str, deed: Callable[[], Awaitable[None]]
    ) -> bool:
        """Do a deed, or say that it would be done; return whether that is over with."""
        state: Told = "dry-run" if self._ctx.config.dry_run else "done"
        try:
            if state == "done":
                await deed()
        except CallError as error:
            self._failed = True
            state, reason = "failed", str(error)
        for name in names:
            await self._journal.note(action, name, mode=mode, state=state, reason=reason)
        return state != "failed"
