"""One client of the Unix socket: lines in, lines out, and a bound on everything it may cost.

The event loop's own protocol and transport are used as they are: a stream object and its checkpoints would cost half
of the round trip again (benchmarks/calls.py). A line is cut, parsed and given to a task of its own; its answer is
written at once.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import msgspec
from anyio import TaskHandle
from anyio.abc import TaskGroup

from sparkd.calls.frames import DEFAULT_CREDIT
from sparkd.calls.handlers import OnError
from sparkd.calls.outgoing import close_items
from sparkd.errors import CallError, CallErrorKind
from sparkd.rpc.jsonrpc import (
    INVALID_REQUEST,
    Message,
    Refusal,
    batch_line,
    checked,
    error_object,
    notification_line,
    parse_line,
    refusal_line,
    result_line,
)
from sparkd.rpc.limits import RpcLimits
from sparkd.rpc.lines import Lines
from sparkd.rpc.outlet import Outlet
from sparkd.rpc.peer import Peer
from sparkd.rpc.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Reply:
    """A result as JSON text, or a stream of them."""

    body: bytes = b""
    items: AsyncIterator[bytes] | None = None
    served_by: str = ""
    trusted: bool = False
    """Whether the text was made in this process; other text is checked before it goes to the client."""


Answer = Callable[["Connection", Message], Awaitable[Reply]]
"""Answers a message; raises CallError only."""


@dataclass(slots=True)
class RpcCounts:
    """What the socket has seen."""

    connections: int = 0
    open: int = 0
    messages: int = 0
    refused: int = 0
    """Connections beyond the bound."""
    malformed: int = 0
    too_long: int = 0
    half_lines: int = 0
    slow_readers: int = 0
    failed: int = 0
    """Messages on which this side failed: our bug, told to `on_error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all connections of a server share."""

    limits: RpcLimits
    answer: Answer
    tasks: TaskGroup
    on_error: OnError
    counts: RpcCounts = field(default_factory=RpcCounts)


@dataclass(eq=False, slots=True)
class _Stream:
    """A stream of answers that is open."""

    message: Message
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    refused: CallError | None = None
    """Why the client may not have it any longer."""


class Connection:
    """A connected client. What it asked for ends with it."""

    def __init__(self, setting: Setting, transport: asyncio.Transport, *, peer: Peer) -> None:
        """Serve *peer*."""
        self.peer = peer
        self._setting = setting
        self._transport = transport
        self._lines = Lines(setting.limits.max_line_bytes)
        self._waiting: deque[bytes | None] = deque()
        self._tasks: dict[int, TaskHandle[None]] = {}
        self._last_task = 0
        self._streams: dict[int, _Stream] = {}
        self._last_stream = 0
        self._in_flight = 0
        self._over = False
        self._gone = False
        self._paused = False
        self._half_line: asyncio.TimerHandle | None = None
        self._idle: anyio.Event | None = None
        self._next: Message | list[Message | Refusal]
        self._worker = setting.tasks.create_task(self._work())
        self.outlet = Outlet(transport, setting.limits, self._count_slow)
        self.uploads = Uploads(self.outlet.write, most=setting.limits.max_streams)

    def received(self, arrived: bytes) -> None:
        """Take bytes from the client."""
        self._waiting.extend(self._lines.feed(arrived))
        self._time_half_line()
        self.go_on()

    def go_on(self) -> None:
        """Start on the lines that wait, as far as the bounds allow; read more only when none is left."""
        limits = self._setting.limits
        while self._waiting and self._in_flight < limits.max_in_flight and not self.outlet.full:
            self._begin(self._waiting.popleft())
        self._pause(bool(self._waiting))
        if self._over and not self._waiting and not self._in_flight and not self._streams and not self.uploads.any:
            self._transport.close()  # after what is written has been read

    def no_more(self) -> None:
        """Learn that the client sends nothing more: answer what it asked, end its streams, close."""
        self._over = True
        self.uploads.no_more()
        for stream in self._streams.values():
            stream.scope.cancel()
        self.go_on()

    def lost(self) -> None:
        """Learn that the client is gone: cancel everything it asked for."""
        self._waiting.clear()
        self._over = self._gone = True
        self.outlet.close()
        self._stop_timer()
        for task in [self._worker, *self._tasks.values()]:
            task.cancel()

    def cancel_stream(self, stream: int) -> bool:
        """End a stream of this client; return whether there was one."""
        held = self._streams.get(stream)
        if held is not None:
            held.scope.cancel()
        return held is not None

    def judge_streams(self, refusal: Callable[[Connection, Message], CallError | None]) -> None:
        """End the streams for whose messages there is a *refusal* now, and tell the client."""
        for held in self._streams.values():
            held.refused = held.refused or refusal(self, held.message)
            if held.refused is not None:
                held.scope.cancel()
        self.uploads.judge(lambda message: refusal(self, message))

    def _begin(self, line: bytes | None) -> None:
        setting = self._setting
        try:
            parsed = parse_line(self._checked_line(line), max_batch=setting.limits.max_batch)
        except Refusal as refusal:
            setting.counts.malformed += 1
            self.outlet.write(refusal_line(refusal))
            return
        if isinstance(parsed, Message) and (self.uploads.take(parsed) or not self._expects(parsed)):
            return
        self._in_flight += 1
        setting.counts.messages += 1 if isinstance(parsed, Message) else len(parsed)
        if self._idle is not None:
            self._next = parsed
            self._idle.set()
            self._idle = None
        else:
            self._last_task += 1
            self._tasks[self._last_task] = setting.tasks.create_task(self._aside(self._last_task, parsed))

    def _expects(self, message: Message) -> bool:
        """Expect the stream of *message*, if it sends one: items may be right behind it. Return whether it is taken."""
        try:
            if message.streams:
                self.uploads.open(message)
        except CallError as error:
            self.outlet.write(refusal_line(Refusal.of(error, message.id or b"null")))
            return False
        return True

    def _checked_line(self, line: bytes | None) -> bytes:
        if line is None:
            self._setting.counts.too_long += 1
            limit = self._setting.limits.max_line_bytes
            raise Refusal(INVALID_REQUEST, f"a line has {limit} bytes at the most; send a reference to large data")
        return line

    async def _work(self) -> None:
        """Answer one message after the other: a client that waits for its answers costs no task for each."""
        while not self._gone:
            idle = self._idle = anyio.Event()
            await idle.wait()
            await self._run(self._next)

    async def _aside(self, number: int, message: Message | list[Message | Refusal]) -> None:
        """Answer a message that came while another was being answered."""
        try:
            if not self._gone:
                await self._run(message)
        finally:
            del self._tasks[number]

    async def _run(self, message: Message | list[Message | Refusal]) -> None:
        try:
            if isinstance(message, Message):
                await self._single(message)
            else:
                await self._batch(message)
        finally:
            self._release()

    def _release(self) -> None:
        self._in_flight -= 1
        if self._waiting or self._over:
            self.go_on()

    async def _single(self, message: Message) -> None:
        if message.streams:
            self._in_flight -= 1  # what it waits for comes on lines that must be read; it has a bound of its own
            self.go_on()
        try:
            reply = await self._answer(message)
            if reply.items is not None:
                await self._stream(message, reply, reply.items)
            elif message.id is not None:
                self.outlet.write(_line(message.id, reply))
        except CallError as error:
            if message.id is not None:
                self.outlet.write(refusal_line(Refusal.of(error, message.id)))
        finally:
            if message.streams:
                self._in_flight += 1
                self.uploads.close(message)  # before it is released: then the connection may close

    async def _answer(self, message: Message) -> Reply:
        """Answer *message*; a bug of ours costs this one answer, not the daemon. Raises CallError."""
        try:
            return await self._setting.answer(self, message)
        except CallError:
            raise
        except Exception as error:
            self._setting.counts.failed += 1
            self._setting.on_error(message.method, error)
            name = type(error).__name__
            raise CallError(CallErrorKind.FAILED, f"{message.method}: {name}: {error}", error=name) from error

    async def _batch(self, messages: list[Message | Refusal]) -> None:
        answers: list[bytes] = [b""] * len(messages)

        async def one(index: int, message: Message) -> None:
            answers[index] = await self._in_batch(message)

        async with anyio.create_task_group() as tasks:
            for index, message in enumerate(messages):
                if isinstance(message, Refusal):
                    answers[index] = refusal_line(message)
                else:
                    tasks.start_soon(one, index, message)
        if any(answers):
            self.outlet.write(batch_line(answers))

    async def _in_batch(self, message: Message) -> bytes:
        try:
            if message.streams:
                raise _no_batch(f"{message.method} sends a stream")
            reply = await self._answer(message)
            await _refuse_stream(message, reply)
            return b"" if message.id is None else _line(message.id, reply)
        except CallError as error:
            return b"" if message.id is None else refusal_line(Refusal.of(error, message.id))

    async def _stream(self, message: Message, reply: Reply, items: AsyncIterator[bytes]) -> None:
        """Send *items* as notifications, as fast as the client reads them."""
        limit = self._setting.limits.max_streams
        if message.id is None or len(self._streams) >= limit or self._over:
            await close_items(items)
            raise CallError(CallErrorKind.UNAVAILABLE, f"{limit} streams are open here", remedy="cancel one of them")
        self._last_stream += 1
        stream = self._last_stream
        self.outlet.write(result_line(message.id, b'{"stream":%d}' % stream, served_by=reply.served_by))
        self._in_flight -= 1  # a stream has a bound of its own
        held = self._streams[stream] = _Stream(message)
        try:
            with held.scope:
                await self._send_items(stream, items, trusted=reply.trusted)
        finally:
            self._in_flight += 1
            del self._streams[stream]
            await close_items(items)
        if held.refused is not None and held.scope.cancelled_caught:
            self._end_stream(stream, held.refused)

    async def _send_items(self, stream: int, items: AsyncIterator[bytes], *, trusted: bool) -> None:
        number, error = 0, None
        try:
            async for item in items:
                if number % DEFAULT_CREDIT == 0:  # a source that never waits must not keep the loop for itself
                    await anyio.lowlevel.checkpoint()
                else:
                    await anyio.lowlevel.checkpoint_if_cancelled()
                body = item if trusted else checked(item)
                self.outlet.write(notification_line("stream.item", stream=stream, n=number, item=msgspec.Raw(body)))
                number += 1
                await self.outlet.room()
        except CallError as failed:
            error = failed
        self._end_stream(stream, error)

    def _end_stream(self, stream: int, error: CallError | None) -> None:
        said = {} if error is None else {"error": error_object(Refusal.of(error, b"null"))}
        self.outlet.write(notification_line("stream.end", stream=stream, **said))

    def _pause(self, wanted: bool) -> None:  # noqa: FBT001 - a state, not an option
        if wanted is not self._paused and not self._over:
            self._paused = wanted
            if wanted:
                self._stop_timer()  # the rest of a line cannot come while nothing is read
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
                self._time_half_line()

    def _time_half_line(self) -> None:
        if not self._lines.partial:
            self._stop_timer()
        elif self._half_line is None:
            limit_s = self._setting.limits.line_timeout_s
            self._half_line = asyncio.get_running_loop().call_later(limit_s, self._half_line_is_late)

    def _half_line_is_late(self) -> None:
        self._setting.counts.half_lines += 1
        limit_s = self._setting.limits.line_timeout_s
        self.outlet.write(refusal_line(Refusal(INVALID_REQUEST, f"the line was not complete after {limit_s:g} s")))
        self._transport.close()

    def _stop_timer(self) -> None:
        if self._half_line is not None:
            self._half_line.cancel()
            self._half_line = None

    def _count_slow(self) -> None:
        self._setting.counts.slow_readers += 1


async def _refuse_stream(message: Message, reply: Reply) -> None:
    if reply.items is not None:
        await close_items(reply.items)
        raise _no_batch(f"{message.method} answers with a stream")


def _no_batch(what: str) -> CallError:
    return CallError(CallErrorKind.INVALID_PARAMS, f"{what}, which has no place in a batch", field="method")


def _line(call_id: bytes, reply: Reply) -> bytes:
    """Return the answer line. Raises CallError if the result is not JSON."""
    body = reply.body if reply.trusted else checked(reply.body)
    return result_line(call_id, body, served_by=reply.served_by)
