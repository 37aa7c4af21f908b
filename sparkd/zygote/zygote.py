"""The core's side of the zygote: fork it, ask it for children, hear of their ends."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from sparkd.zygote import server, wire
from sparkd.zygote.birth import Main
from sparkd.zygote.children import Child, Exit, Pipes

LEAVE_LIMIT_S = 1.0
"""How long a zygote may take to kill its children and leave when its connection is closed; it needs milliseconds."""
MAX_RESULT_BYTES = 4 << 20


@dataclass(slots=True)
class _Request:
    """A fork that was asked for and not answered yet."""

    pipes: Pipes
    answered: anyio.Event = field(default_factory=anyio.Event)
    child: Child | None = None
    error: OSError | None = None


class Zygote:
    """The process that all children come from. Use `fork` first, then `attach` once there is an event loop."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.lost = anyio.Event()
        """Set when the zygote is gone though nobody asked: every child is dead too, and the core must exit."""
        self._connection = connection
        self._numbers = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._children: dict[int, Child] = {}
        self._sending = anyio.Lock()
        self._tasks: TaskGroup | None = None

    @classmethod
    def fork(cls, mains: Mapping[str, Main]) -> Zygote:
        """Fork the zygote; *mains* are the functions its children can run, by kind.

        Called once, by a process that has no other thread, no event loop and no zmq Context, and has imported what
        the children share. Raises OSError if the kernel refuses.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        core = os.getpid()
        gc.collect()
        gc.freeze()  # what is here now is shared for good: a collection in a child must not touch, and so copy, it
        with ours, its:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                pid = os.fork()
                if pid == 0:
                    server.serve(mains, core=core, connection=its.fileno())
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            connection = socket.socket(fileno=ours.detach())
        connection.settimeout(0)
        return cls(pid, connection)

    @asynccontextmanager
    async def attach(self) -> AsyncIterator[Zygote]:
        """Serve the connection on this event loop. Leaving kills every child and the zygote."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._receive_all)
                yield self
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            self._connection.close()
            self._forsake()
            with anyio.CancelScope(shield=True):
                await self._bury()

    async def spawn(
        self,
        kind: str,
        spec: bytes,
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        memory_bytes: int = 0,
        open_files: int = 0,
        cgroup: str = "",
        on_line: Callable[[str], None] | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> Child:
        """Start a child that runs the main of *kind* with *spec*.

        *on_line* gets each line it writes to stdout or stderr; it must be quick and must not raise. *memory_bytes*
        limits its address space, *open_files* its descriptors; it joins the control group at *cgroup*. Raises OSError
        if the kernel refuses (the zygote lives on), ChildProcessError if the zygote is gone. A child whose caller is
        cancelled meanwhile is killed.
        """
        order = wire.Order(kind, name, spec, dict(env or {}), memory_bytes, open_files, cgroup)
        number = next(self._numbers)
        pipes = Pipes(on_line=on_line, max_result_bytes=max_result_bytes)
        request = self._requests[number] = _Request(pipes)
        try:
            try:
                await self._send_order(number, order, pipes)
            finally:
                pipes.close_child_ends()
            await request.answered.wait()
        except BaseException:
            if request.child is not None:
                request.child.kill()
            raise
        finally:
            self._requests.pop(number, None)
            if request.child is None:
                pipes.close()
        if request.child is None:
            raise request.error or ChildProcessError("the zygote is gone")
        return request.child

    async def _send_order(self, number: int, order: wire.Order, pipes: Pipes) -> None:
        if self._tasks is None or self.lost.is_set():
            raise ChildProcessError("the zygote is gone")
        order_fd = os.memfd_create("sparkd-order")
        try:
            with open(order_fd, "wb", closefd=False) as file:  # noqa: ASYNC230 - memory, no disk
                file.write(wire.encode(order))
            descriptors = [order_fd, pipes.output_fd, pipes.result_fd]
            async with self._sending:
                await self._send(wire.Fork(number), descriptors)
        finally:
            os.close(order_fd)

    async def _send(self, message: wire.ToZygote, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._connection, [wire.encode(message)], descriptors)
            except BlockingIOError:  # many requests at once: it forks one in a few milliseconds
                await anyio.wait_writable(self._connection)
            except (BrokenPipeError, ConnectionResetError):
                raise ChildProcessError("the zygote is gone") from None
            else:
                return

    def _send_signal(self, pid: int, number: int, *, group: bool) -> None:
        """Let the zygote send it: only it knows that *pid* is still ours. If it is busy, the number is fresh enough."""
        try:
            self._connection.send(wire.encode(wire.Kill(pid, number, group)))
        except BlockingIOError:
            with contextlib.suppress(OSError):
                (os.killpg if group else os.kill)(pid, number)
        except OSError:  # the zygote is gone, and the child with it
            pass

    async def _receive_all(self) -> None:
        while True:
            await anyio.wait_readable(self._connection)
            try:
                message = self._connection.recv(wire.MAX_MESSAGE_BYTES)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                message = b""
            if not message:
                break
            self._received(wire.decode_from_zygote(message))
        self.lost.set()
        self._forsake()

    def _received(self, message: wire.FromZygote) -> None:
        match message:
            case wire.Born(number, pid):
                self._born(number, pid)
            case wire.Refused(number, code, reason):
                if request := self._requests.get(number):
                    request.error = OSError(code, f"cannot fork a child: {reason}")
                    request.answered.set()
            case wire.Ended(pid):
                if child := self._children.pop(pid, None):
                    child.ended(Exit.of(message))

    def _born(self, number: int, pid: int) -> None:
        request = self._requests.get(number)
        if request is None:  # its caller was cancelled
            self._send_signal(pid, signal.SIGKILL, group=True)
            return
        child = request.child = self._children[pid] = Child(pid, request.pipes, self._send_signal)
        assert self._tasks is not None  # noqa: S101 - this runs in one of its tasks
        self._tasks.start_soon(child.follow)
        request.answered.set()

    def _forsake(self) -> None:
        """Tell all who wait that the zygote is gone; the kernel kills every child together with it."""
        for request in self._requests.values():
            request.answered.set()
        for child in self._children.values():
            child.ended(Exit(signal=signal.SIGKILL))
        self._children.clear()

    async def _bury(self) -> None:
        """Wait for the zygote to leave, and make it; nothing of it remains."""
        pidfd = os.pidfd_open(self.pid)
        try:
            with anyio.move_on_after(LEAVE_LIMIT_S):
                await anyio.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        os.kill(self.pid, signal.SIGKILL)  # it is not reaped yet, so this hits it or nothing
        os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it has been killed
