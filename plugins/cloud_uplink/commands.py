"""Run what the target orders, if the config allows it: each command once, its result a durable record.

A command arrives as a call, so who sent it was verified by key. It is in the journal before it is accepted. How long it
is good for is counted from its arrival (`remaining_s`), because the sender's wall clock and ours may differ by years;
only a sender that does not say falls back to comparing wall clocks. Commands run one at a time, in order of arrival.
"""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import Any

import anyio

from sparkd import (
    CallError,
    CallErrorKind,
    CommandResult,
    Context,
    LocalMessageError,
    StorageError,
    current_call,
)

from .figures import Figures
from .journal import UNCERTAIN, Journal, Order
from .settings import CloudUplinkConfig

STORAGE_RETRY_S = 5.0
UNKNOWN_ENDS = (CallErrorKind.UNAVAILABLE, CallErrorKind.DEADLINE, CallErrorKind.CANCELLED)
"""Failures that leave open whether the method ran: the answer may be all that was lost."""


class CommandDesk:
    """Takes commands (the interface `command-runner`) and works through them."""

    def __init__(self, ctx: Context[CloudUplinkConfig], journal: Journal, figures: Figures) -> None:
        """Take commands for the node of *ctx*, kept in *journal*."""
        self._ctx = ctx
        self._journal = journal
        self._figures = figures
        self._arrived = anyio.Event()

    async def run(
        self,
        *,
        command_id: str,
        method: str,
        params: dict[str, Any],
        expires_ns: int,
        remaining_s: float | None = None,
    ) -> str:
        """Take a command; see the interface. Raises CallError if the sender or the method is not allowed."""
        privacy = current_call().privacy
        self._check(current_call().node, method)
        now_ns = time.time_ns()
        left_s = (expires_ns - now_ns) / 1e9 if remaining_s is None else remaining_s
        try:
            if await self._journal.knows(command_id):
                return self._outcome("duplicate")
            if expires_ns and left_s <= 0:
                return self._outcome("expired")
            until_ns = now_ns + int(left_s * 1e9) if expires_ns else 0
            new = await self._journal.take(
                command_id, method, params, now_ns=now_ns, expires_ns=until_ns, privacy=privacy
            )
        except StorageError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy="free space on the state disk") from error
        self._arrived.set()
        return self._outcome("accepted" if new else "duplicate")

    async def work(self) -> None:
        """Run what was taken, for ever."""
        await self._journal.forget(now_ns=time.time_ns())
        while True:
            self._arrived = anyio.Event()
            while order := await self._journal.next_order():
                try:
                    await self._advance(order)
                except StorageError as error:
                    self._ctx.log.warning("command waits for the disk", command=order.command_id, error=str(error))
                    await anyio.sleep(STORAGE_RETRY_S)
            await self._arrived.wait()

    def _check(self, sender: str, method: str) -> None:
        config = self._ctx.config
        if sender != config.target:
            rule = f"commands come from {config.target} only"
            raise CallError(CallErrorKind.DENIED, f"{sender} may not send commands here", rule=rule)
        if "/" in method or not any(fnmatchcase(method, pattern) for pattern in config.commands_allow):
            self._outcome("denied")
            rule = f"[plugins.cloud-uplink] commands_allow = {list(config.commands_allow)}"
            raise CallError(CallErrorKind.DENIED, f"{method} may not be called by command", rule=rule)

    async def _advance(self, order: Order) -> None:
        """Take *order* one step further: run it, or send off its result."""
        if order.done:
            await self._answer(order)
        elif 0 < order.expires_ns <= time.time_ns():
            await self._journal.finish(order.command_id, ok=False, error="expired before its turn came")
        else:
            await self._journal.start(order.command_id)
            await self._call(order)

    async def _call(self, order: Order) -> None:
        try:
            limit_s = self._ctx.config.command_deadline_s
            result = await self._ctx.request(order.method, order.params, deadline_s=limit_s, privacy=order.privacy)
        except CallError as error:
            error_text = f"{error}; {UNCERTAIN}" if error.kind in UNKNOWN_ENDS else str(error)
            await self._journal.finish(order.command_id, ok=False, error=error_text)
        else:
            await self._journal.finish(order.command_id, ok=True, result=result)

    async def _answer(self, order: Order) -> None:
        answer = CommandResult(command_id=order.command_id, ok=order.ok, result=order.result, error=order.error)
        try:
            await self._ctx.bus.publish(answer, privacy=order.privacy, key=order.command_id)
        except LocalMessageError as error:
            what = f"it ran ({'well' if order.ok else 'badly'}), but its result cannot be sent: {error}"
            await self._ctx.bus.publish(
                CommandResult(command_id=order.command_id, ok=order.ok, error=what),
                privacy=order.privacy,
                key=order.command_id,
            )
        await self._journal.answered(order.command_id)
        self._outcome("done" if order.ok else "failed")

    def _outcome(self, outcome: str) -> str:
        self._figures.commands.labels(outcome).inc()
        return outcome
