"""Send commands to other nodes: each waits in this node's outbox, in a stream per target, until delivered or expired.

When a command has expired is decided here, by the clock that set the time; the target is told how much is left. That a
command runs once is the target's journal's doing, so it may be offered again whenever an answer was lost.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup

from sparkd import (
    CallError,
    CallErrorKind,
    CommandResult,
    CommandRunner,
    CommandStatus,
    Context,
    OutboxReader,
    Privacy,
    Record,
    RemoteMessageError,
    StorageError,
    Stored,
    current_call,
    decode_body,
    encode_body,
)

from .journal import Command, Journal
from .policy import STREAM_PART, retry_delay_s
from .settings import EdgeIngestConfig

SERVICE = "edge-ingest"
COMMAND_TOPIC = "sparkd.commands"
STREAM_PREFIX = "commands-"
DELIVERY_DEADLINE_S = 10.0
MOST_EXPIRES_S = 365 * 86_400.0

FINAL = (CallErrorKind.DENIED, CallErrorKind.INVALID_PARAMS)
"""Answers that will not change by asking again. A runner that is unknown or fails now may be well in a minute."""


class CommandOffice:
    """Answers the interface `commands`, and delivers what was sent."""

    def __init__(self, ctx: Context[EdgeIngestConfig], journal: Journal) -> None:
        """Send from the node of *ctx*; keep what is known in *journal*."""
        self._ctx = ctx
        self._journal = journal
        self._one_writer: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def send(
        self,
        *,
        target: str,
        method: str,
        params: dict[str, Any] | None = None,
        expires_s: float = 3600.0,
        privacy: Literal["local", "shared"] = "shared",
    ) -> str:
        """Queue a command; see the interface. Only callers on this node may."""
        self._check(target, expires_s)
        command = Command(
            command_id=uuid.uuid4().hex,
            target=target,
            method=method,
            params=params or {},
            expires_ns=time.time_ns() + int(expires_s * 1e9),
            privacy=Privacy.parse(privacy),
        )
        record = Record(
            topic=COMMAND_TOPIC,
            body=encode_body(command),
            privacy=command.privacy,
            wall_ns=time.time_ns(),
            mono_ns=time.monotonic_ns(),
            expires_ns=command.expires_ns,
            key=command.command_id,
        )
        try:
            await self._journal.sent(command)  # first: what is in the outbox will be run, so nothing may fail after it
            await self._append(STREAM_PREFIX + target, record, command)
        except StorageError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy="free space on the state disk") from error
        return command.command_id

    async def _append(self, stream: str, record: Record, command: Command) -> None:
        async with self._one_writer[command.target]:
            with anyio.CancelScope(shield=True):
                try:
                    async with self._ctx.outbox.writer(stream) as writer:
                        await writer.append([record])
                except StorageError:
                    with suppress(StorageError):  # else it is listed as pending until it expires, and not run
                        await self._journal.forget(command.command_id)
                    raise

    async def status(self, *, command_id: str) -> CommandStatus:
        """Return what is known of a command; see the interface."""
        status = await self._journal.status(command_id)
        if status is None:
            raise CallError(CallErrorKind.FAILED, f"no command {command_id[:80]!r}", error="unknown-command")
        return status

    async def result(self, node: str, result: CommandResult) -> None:
        """Take note of a result that came from *node*."""
        await self._journal.finished(node, result)

    async def deliver(self) -> None:
        """Deliver what is in the outbox, to each target in the order of sending, for ever."""
        known: set[str] = set()
        async with anyio.create_task_group() as targets, self._ctx.outbox.watch() as changes:
            async for streams in changes:
                own = {stream for service, stream in streams if service == SERVICE}
                mine = {stream for stream in own if stream.startswith(STREAM_PREFIX)}
                self._start(mine - known, targets)
                known |= mine

    def _start(self, streams: set[str], targets: TaskGroup) -> None:
        for stream in sorted(streams):
            targets.start_soon(self._deliver_to, stream)

    async def _deliver_to(self, stream: str) -> None:
        async with self._ctx.outbox.reader(SERVICE, stream, name="deliver") as reader:
            while True:
                for stored in await reader.read(max_records=1, max_bytes=1 << 20):
                    await self._deliver(reader, stored)
                await reader.wait()

    async def _deliver(self, reader: OutboxReader, stored: Stored) -> None:
        """Bring one command to its end here: delivered, refused, expired or unreadable."""
        try:
            command: Command = decode_body(Command, stored.record.body)
        except RemoteMessageError as error:
            await reader.reject(stored, str(error))
        else:
            await self._noted(partial(self._journal.sent, command))
            state, reason = await self._offer(command)
            await self._noted(partial(self._journal.moved, command.command_id, state, error=reason))
        await self._noted(partial(reader.advance, stored.seq))

    async def _noted(self, note: Callable[[], Awaitable[None]]) -> None:
        """Do *note*, again and again while the disk takes nothing: nothing tells when there is room."""
        failures = 0
        while True:
            try:
                return await note()
            except StorageError as error:
                failures += 1
                if failures == 1:
                    self._ctx.log.warning("commands wait for room on the disk", why=str(error))
                config = self._ctx.config
                await anyio.sleep(retry_delay_s(failures, least_s=config.retry_least_s, most_s=config.retry_most_s))

    async def _offer(self, command: Command) -> tuple[str, str]:
        """Offer *command* until it is answered or expired; return its state then, and why."""
        failures, reason = 0, "it could not be offered in time"
        while (remaining_s := (command.expires_ns - time.time_ns()) / 1e9) > 0:
            deadline_s = min(DELIVERY_DEADLINE_S, remaining_s)
            runner = self._ctx.call(CommandRunner, node=command.target, deadline_s=deadline_s, privacy=command.privacy)
            try:
                answer = await runner.run(
                    command_id=command.command_id,
                    method=command.method,
                    params=command.params,
                    expires_ns=command.expires_ns,
                    remaining_s=remaining_s,
                )
            except CallError as error:
                if error.kind in FINAL:
                    return "failed", str(error)
                reason, failures = str(error), failures + 1
            else:
                return ("expired", "on arrival") if answer == "expired" else ("delivered", "")
            config = self._ctx.config
            delay_s = retry_delay_s(failures, least_s=config.retry_least_s, most_s=config.retry_most_s)
            await anyio.sleep(min(delay_s, remaining_s))
        return "expired", reason

    def _check(self, target: str, expires_s: float) -> None:
        sender, nodes = current_call().node, self._ctx.config.nodes
        if sender != self._ctx.node:
            rule = "commands are sent by callers on the node itself"
            raise CallError(CallErrorKind.DENIED, f"{sender} may not send commands from here", rule=rule)
        if not STREAM_PART.fullmatch(target) or (nodes and target not in nodes):
            message = f"target: {target[:80]!r}, {f'one of {list(nodes)}' if nodes else 'the name of a node'} expected"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="target")
        if not 0 < expires_s <= MOST_EXPIRES_S:
            message = f"expires_s: {expires_s}, more than 0 and a year at most expected"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="expires_s")
