"""The zygote's side: fork on request, reap, report, and take everything along when the core is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import traceback
from collections.abc import Mapping
from typing import Never

from sparkd.zygote import birth, kernel, wire

_SOCKET_FD = 3
_DESCRIPTORS = 3  # order, output, result
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # sent to the whole group; stopping is the core's decision


def serve(mains: Mapping[str, birth.Main], *, core: int, connection: int) -> Never:
    """Be the zygote of process *core*, connected by the descriptor *connection*. Called in a fresh fork."""
    try:
        kernel.die_with_parent(core)
        os.dup2(connection, _SOCKET_FD, inheritable=False)
        kernel.close_from(_SOCKET_FD + 1)
        kernel.name_process("zygote")
        kernel.adopt_orphans()
        birth.reset_dispositions()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        with socket.socket(fileno=_SOCKET_FD) as core_socket:
            Server(core_socket, mains).run()
    except BaseException:  # noqa: BLE001 - the core's stack lies beneath: nothing may unwind into it
        traceback.print_exc()
    finally:
        os._exit(1)


class Server:
    """The children that are alive, and the connection to the core."""

    def __init__(self, connection: socket.socket, mains: Mapping[str, birth.Main]) -> None:
        self._connection = connection
        self._mains = mains
        self._alive: set[int] = set()
        self._pid = os.getpid()

    def run(self) -> Never:
        """Serve until the core closes the connection or dies."""
        wake_in, wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the byte is written
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        poll = select.poll()
        poll.register(wake_in, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wake_in in ready:
                os.read(wake_in, 512)
                self._reap()
            if self._connection.fileno() in ready:
                self._receive()

    def _receive(self) -> None:
        message, descriptors, _, _ = socket.recv_fds(
            self._connection, wire.MAX_MESSAGE_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            self._leave()
        match wire.decode_to_zygote(message):
            case wire.Fork(request):
                self._fork(request, descriptors)
            case wire.Kill(pid, number, group) if pid in self._alive:
                _send_signal(pid, number, group=group)

    def _fork(self, request: int, descriptors: list[int]) -> None:
        # Blocked until the child has reset them: a signal that the core sends at once must find it as any process is.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            order_fd, output_fd, result_fd = descriptors
            pid = os.fork()
        except (OSError, ValueError) as error:  # ValueError: descriptors lost because this process may open no more
            number = getattr(error, "errno", None) or errno.EMFILE
            self._send(wire.Refused(request, number, os.strerror(number)))
        else:
            if pid == 0:
                birth.live(self._mains, zygote=self._pid, order_fd=order_fd, output_fd=output_fd, result_fd=result_fd)
            self._alive.add(pid)
            self._send(wire.Born(request, pid))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            for descriptor in descriptors:
                os.close(descriptor)

    def _reap(self) -> None:
        while (pid := _ended_child()) is not None:
            if pid in self._alive:
                # While it is not reaped its number cannot be anyone else's, so this hits only what it left behind.
                _send_signal(pid, signal.SIGKILL, group=True)
            _, status, usage = os.wait4(pid, 0)
            if pid in self._alive:
                self._alive.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                self._send(wire.Ended(pid, code, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime))
        self._kill_strays()

    def _kill_strays(self) -> None:
        """Kill adopted processes that belong to no living child: those that daemonised themselves."""
        for pid in kernel.child_pids():
            if pid not in self._alive:
                with contextlib.suppress(OSError):  # gone meanwhile, or of another user
                    if os.getsid(pid) not in self._alive:
                        os.kill(pid, signal.SIGKILL)

    def _send(self, message: wire.FromZygote) -> None:
        try:
            self._connection.send(wire.encode(message))
        except OSError:  # the core is gone; nobody is left to report to
            self._leave()

    def _leave(self) -> Never:
        for pid in self._alive:
            _send_signal(pid, signal.SIGKILL, group=True)
        os._exit(0)


def _ended_child() -> int | None:
    """Return a child that has ended and is not reaped yet, or None."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended else None


def _send_signal(pid: int, number: int, *, group: bool) -> None:
    try:
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except OSError:  # it does not lead its session yet (its group is still ours), or it is of another user
        with contextlib.suppress(OSError):
            os.kill(pid, number)
