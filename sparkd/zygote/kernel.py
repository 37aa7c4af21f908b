"""The few things we ask of Linux that Python has no name for."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_LAST_DESCRIPTOR = 0x7FFF_FFFF

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent(parent: int) -> None:
    """Be killed by the kernel when process *parent* dies; exit at once if it has died already."""
    _call(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between our fork and the line above
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none gets away."""
    _call(_PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Show `sparkd:`*name* in ps and top; the kernel keeps 15 bytes."""
    _call(_PR_SET_NAME, ctypes.c_char_p(f"sparkd:{name}".encode()))


def close_from(first: int) -> None:
    """Close every descriptor from *first* on."""
    os.closerange(first, _LAST_DESCRIPTOR)


def volunteer_for_oom(extra: int) -> None:
    """Raise this process's out-of-memory score by *extra*, so that the kernel takes it before its parent."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):  # no such file in some containers: the order is then the kernel's
        path.write_text(str(min(int(path.read_text()) + extra, 1000)))


def child_pids() -> list[int]:
    """Return the processes whose parent is the calling thread; empty where the kernel does not say."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _call(option: int, argument: object) -> None:
    if _prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
