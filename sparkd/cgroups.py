"""Control groups (cgroup v2): one beneath our own for each service, where systemd has given us that part of the tree.

`Tree.take` moves this process into the leaf `core`, because the kernel gives controllers only to groups without
processes; it is called before anything is forked. Nothing is touched that was not delegated to us (`Delegate=`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

import anyio

CONTROLLERS = ("cpu", "memory", "pids")
CPU_PERIOD_US = 100_000
"""The kernel's own default for cpu.max."""
REMOVE_LIMIT_S = 1.0
REMOVE_PAUSE_S = 0.01
_DELEGATE = ("user.delegate", "trusted.delegate")
"""Set to 1 by systemd on what it delegates; the first may be read by anyone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLimits:
    """What a group may use; 0 for no limit."""

    memory_bytes: int = 0
    cpu_percent: float = 0.0
    """Of one processor."""
    tasks: int = 0


class Group:
    """The group of one run of one service."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def limit(self, limits: GroupLimits, controllers: frozenset[str]) -> None:
        """Set what *controllers* can keep of *limits*. Raises OSError if the kernel refuses."""
        if limits.memory_bytes and "memory" in controllers:
            # No memory.high: without swap it holds a service in the kernel for minutes, where nobody sees why.
            self._write("memory.max", str(limits.memory_bytes))
            self._write("memory.oom.group", "1")  # half a service is none
        if limits.cpu_percent and "cpu" in controllers:
            self.limit_cpu(limits.cpu_percent)
        if limits.tasks and "pids" in controllers:
            self._write("pids.max", str(limits.tasks))

    def limit_cpu(self, percent: float) -> None:
        """Set what it may have of one processor; 0 for no limit. Raises OSError if the kernel refuses."""
        most = str(int(percent / 100 * CPU_PERIOD_US)) if percent else "max"
        self._write("cpu.max", f"{most} {CPU_PERIOD_US}")

    def kill(self) -> None:
        """Kill every process in it, whatever its session; nothing before Linux 5.14."""
        with contextlib.suppress(OSError):
            self._write("cgroup.kill", "1")

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel killed for their memory."""
        return self._figure("memory.events", "oom_kill")

    def tasks_refused(self) -> int:
        """Return how often it could not have one more thread or process."""
        return self._figure("pids.events", "max")

    def throttled_s(self) -> float:
        """Return for how long it was kept from the processor, all its threads together."""
        return self._figure("cpu.stat", "throttled_usec") / 1e6

    async def remove(self) -> None:
        """Kill what is left in it, and remove it; one that cannot be emptied stays."""
        self.kill()
        deadline = time.monotonic() + REMOVE_LIMIT_S
        while time.monotonic() < deadline:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # the killed are still going
                await anyio.sleep(REMOVE_PAUSE_S)
            else:
                return

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)

    def _figure(self, name: str, key: str) -> int:
        try:
            lines = (self.path / name).read_text(encoding="ascii").splitlines()
        except OSError:  # no such controller
            return 0
        return next((int(value) for found, _, value in (line.partition(" ") for line in lines) if found == key), 0)


class Tree:
    """Our part of the tree."""

    def __init__(self, root: Path, controllers: frozenset[str]) -> None:
        """Make groups beneath *root*, which has *controllers* to give."""
        self.root, self.controllers = root, controllers
        self._numbers = itertools.count(1)

    @classmethod
    def take(cls) -> Tree | None:
        """Move this process into a leaf of the group it was started in; None if that group is not ours to divide.

        Raises OSError if the kernel refuses.
        """
        root = _own_group()
        if root is None or not _is_delegated(root):
            return None
        leaf = root / "core"
        leaf.mkdir(exist_ok=True)
        for pid in (root / "cgroup.procs").read_text(encoding="ascii").split():
            (leaf / "cgroup.procs").write_text(pid)
        given = set()
        for name in set((root / "cgroup.controllers").read_text(encoding="ascii").split()) & set(CONTROLLERS):
            with contextlib.suppress(OSError):  # one that is not to be had is shown as a limit that is not kept
                (root / "cgroup.subtree_control").write_text(f"+{name}")
                given.add(name)
        return cls(root, frozenset(given))

    def make(self, name: str, limits: GroupLimits) -> Group:
        """Return a new group for a run of service *name*. Raises OSError if the kernel refuses."""
        group = Group(self.root / f"service.{name}.{next(self._numbers)}")
        group.path.mkdir()
        group.limit(limits, self.controllers)
        return group


def _own_group() -> Path | None:
    """Return the folder of this process's group in the version 2 hierarchy; None if there is none in sight."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    name = next((line[3:] for line in lines if line.startswith("0::")), None)
    # mountinfo: number parent device root target options ... - type source options (proc_pid_mountinfo(5))
    found = (line.split() for line in mounts if " - cgroup2 " in line)
    target = next(((words[3], words[4]) for words in found), None)
    if name is None or target is None:
        return None
    inner, mounted = target
    return Path(mounted) / os.path.relpath(name, inner) if name.startswith(inner) else None


def _is_delegated(group: Path) -> bool:
    for attribute in _DELEGATE:
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return True
    return os.geteuid() != 0 and os.access(group / "cgroup.procs", os.W_OK) and os.access(group, os.W_OK)
