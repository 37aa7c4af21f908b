"""The board behind the stand-in: its file is read at every operation, so faults can come and go."""

from __future__ import annotations

import collections
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from .pyhailort._pyhailort import HailoRTStatusException

calls: list[tuple[str, Any]] = []
"""What was asked of the stand-in in this process, for tests to look at."""
_PATH = Path(os.environ["SPARKD_FAKE_HAILO"])
_tries: collections.Counter[str] = collections.Counter()
_held: dict[str, Any] = {"groups": [], "lock": None}

DEVICE_IN_USE = 73
OUT_OF_PHYSICAL_DEVICES = 74


def board() -> dict[str, Any]:
    """Return what the machine has now."""
    found: dict[str, Any] = json.loads(_PATH.read_text())
    return found


def note(operation: str, what: Any = None) -> None:
    """Remember an operation for tests."""
    calls.append((operation, what))


def enter(operation: str, what: Any = None) -> None:
    """Begin *operation*: hang if it is to hang, raise the raw exception of the library if it is to fail."""
    note(operation, what)
    while operation in board()["hangs"]:
        time.sleep(0.005)  # noqa: TID251 - a blocked call into the library is what this stands for
    code = failure(operation)
    if code:
        raise HailoRTStatusException(code)


def failure(operation: str) -> int:
    """Return the status that this run of *operation* ends with; 0 for success."""
    fault = board()["faults"].get(operation)
    if fault is None:
        return 0
    _tries[operation] += 1
    late = _tries[operation] - fault["after"]
    return int(fault["code"]) if 0 < late <= fault["times"] else 0


def reset() -> None:
    """Forget what happened in this process."""
    calls.clear()
    _tries.clear()
    _held["groups"].clear()
    _unlock()


def seize(group: str) -> None:
    """Take the device for a VDevice of *group*, as the driver does: one process at a time, and one group in it."""
    groups = _held["groups"]
    if groups and (group == "UNIQUE" or group not in groups):
        raise HailoRTStatusException(OUT_OF_PHYSICAL_DEVICES)
    if not board()["devices"]:
        raise HailoRTStatusException(OUT_OF_PHYSICAL_DEVICES)
    if not groups:
        lock = Path(f"{_PATH}.lock").open("w")  # noqa: SIM115 - held as long as the device
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise HailoRTStatusException(DEVICE_IN_USE) from None
        _held["lock"] = lock
    groups.append(group)


def let_go(group: str) -> None:
    """Give the device back."""
    if group in _held["groups"]:
        _held["groups"].remove(group)
    if not _held["groups"]:
        _unlock()


def _unlock() -> None:
    if _held["lock"] is not None:
        _held["lock"].close()
        _held["lock"] = None
