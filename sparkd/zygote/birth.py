"""From a fresh fork to a process of its own: what a child does before, and after, its main function."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Never, TypeAlias

from sparkd import steps
from sparkd.zygote import kernel, wire

Main: TypeAlias = Callable[[bytes, int], int]
"""Takes the spec and the descriptor of the result pipe; returns the exit code."""

RESULT_FD = 3
DUMP_SIGNAL = signal.SIGUSR2
"""Makes a child write where each of its threads is to stderr; works while Python code is blocked."""
OOM_EXTRA = 100
FAILED = 70
"""Exit code of a child whose main raised (EX_SOFTWARE of sysexits.h)."""

_KEPT_IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}  # as in any Python: a write then raises instead of killing


def live(mains: Mapping[str, Main], *, zygote: int, order_fd: int, output_fd: int, result_fd: int) -> Never:
    """Be the child that the order describes, and exit. Called with all signals blocked; never returns."""
    code = FAILED
    try:
        kernel.die_with_parent(zygote)
        os.setsid()
        order = wire.decode_order(_read_all(order_fd))
        _arrange_descriptors(output_fd, result_fd)
        _reset_signals()
        _take_limits(order)
        code = mains[order.kind](order.spec, RESULT_FD)
    except SystemExit as leaving:
        code = _exit_code(leaving.code)
    except BaseException:  # noqa: BLE001 - a plugin may raise anything, and nothing may return into the zygote's loop
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code & 0xFF)


def reset_dispositions() -> None:
    """Give every signal the meaning it has in a new process, except that SIGINT simply kills."""
    signal.set_wakeup_fd(-1)
    faulthandler.disable()  # or it would believe that its handlers are still there
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not None:  # None: the C library's own
            signal.signal(number, signal.SIG_IGN if number in _KEPT_IGNORED else signal.SIG_DFL)


def _reset_signals() -> None:
    reset_dispositions()
    faulthandler.enable(sys.stderr)
    faulthandler.register(DUMP_SIGNAL, file=sys.stderr, all_threads=True, chain=False)
    # Last: a signal that came meanwhile was kept by the mask, and now does what it would to any process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _arrange_descriptors(output_fd: int, result_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    if result_fd != RESULT_FD:
        os.dup2(result_fd, RESULT_FD, inheritable=False)
    kernel.close_from(RESULT_FD + 1)
    # Whatever the core had in their place (a test runner's capture, say) has just lost its descriptor.
    sys.stdin = sys.__stdin__ = _open(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _open(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _open(2, "w")  # type: ignore[misc]


def _open(descriptor: int, mode: str) -> Any:
    return open(descriptor, mode, buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _take_limits(order: wire.Order) -> None:
    if order.cgroup:
        Path(order.cgroup, "cgroup.procs").write_text("0")
    kernel.name_process(order.name or order.kind)
    kernel.volunteer_for_oom(OOM_EXTRA)
    os.environ.update(order.env)
    if steps.VARIABLE in order.env:
        steps.arm(order.env[steps.VARIABLE])
    if order.memory_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (order.memory_bytes, hard))
    if order.open_files:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = min(order.open_files, hard) if hard != resource.RLIM_INFINITY else order.open_files
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def _read_all(descriptor: int) -> bytes:
    """Return the content of a memfd; its offset is shared with the writer and not to be trusted."""
    size = os.fstat(descriptor).st_size
    chunks = []
    got = 0
    while got < size:
        chunks.append(os.pread(descriptor, size - got, got))  # one read gives 2 GiB at the most
        got += len(chunks[-1])
    return b"".join(chunks)


def _exit_code(code: object) -> int:
    """Return what the interpreter would make of `sys.exit(code)`."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)  # noqa: T201 - what the interpreter does with it
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # plugin code may have replaced it; nowhere is left to say so
            stream.flush()
