"""What the kernel says of the processes of a service. Blocks, briefly: not for the event loop.

Theory of operation. The files of a process in /proc are opened once and read again and again: an open file of a
process that is gone says so, even if another has got its number. A service is its own process and all beneath it; who
is beneath is found by a walk through /proc every few seconds.

What a process has spent moves to its parent when the parent takes note of its end. So what a service has spent is the
sum over its processes, children they have waited for included, and that sum only grows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENOUGH = 4096
"""Of a file in /proc, in bytes."""
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """What only grows."""

    cpu_us: int = 0
    read: int = 0
    write: int = 0

    def __add__(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(self.cpu_us + other.cpu_us, self.read + other.read, self.write + other.write)

    def __sub__(self, other: Spent) -> Spent:
        """Return the difference; it may be below nothing."""
        return Spent(self.cpu_us - other.cpu_us, self.read - other.read, self.write - other.write)

    def counts(self) -> dict[str, int]:
        """Return it as columns of a row, never below nothing."""
        return {"cpu_us": max(self.cpu_us, 0), "read": max(self.read, 0), "write": max(self.write, 0)}

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is below nothing."""
        return min(self.cpu_us, self.read, self.write) >= 0


@dataclass(frozen=True, slots=True)
class Look:
    """One process at one moment."""

    rss: int
    threads: int
    fds: int
    own_cpu_us: int
    """Without what its ended children spent."""
    spent: Spent
    major_faults: int
    switches: int
    preempted: int


class Process:
    """The files of one process. Raises OSError (ProcessLookupError, mostly) once it is gone."""

    def __init__(self, pid: int) -> None:
        """Open the files of *pid*."""
        self.pid = pid
        self._open: list[int] = []
        try:
            self._stat = self._file("stat")
            self._status = self._file("status")
        except OSError:
            self.close()
            raise
        try:
            self._io = self._file("io")
        except OSError:  # of another user: a service in a unit of its own
            self._io = -1

    def look(self) -> Look:
        """Return how it is now. Raises OSError if it is gone."""
        fields = os.pread(self._stat, _ENOUGH, 0).rpartition(b") ")[2].split()
        if not fields or fields[0] in (b"Z", b"X"):
            raise ProcessLookupError(f"{self.pid} has ended")
        own = (int(fields[11]) + int(fields[12])) * _TICK_US
        children = (int(fields[13]) + int(fields[14])) * _TICK_US
        read, write = self._storage()
        switches, preempted = self._switches()
        return Look(
            rss=int(fields[21]) * _PAGE,
            threads=int(fields[17]),
            fds=self._descriptors(),
            own_cpu_us=own,
            spent=Spent(own + children, read, write),
            major_faults=int(fields[9]),
            switches=switches,
            preempted=preempted,
        )

    def close(self) -> None:
        """Close the files."""
        for file in self._open:
            os.close(file)
        self._open.clear()

    def _file(self, name: str) -> int:
        file = os.open(f"/proc/{self.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._open.append(file)
        return file

    def _storage(self) -> tuple[int, int]:
        if self._io < 0:
            return 0, 0
        try:
            words = os.pread(self._io, _ENOUGH, 0).split()
        except PermissionError:
            return 0, 0
        return int(words[9]), int(words[11])

    def _switches(self) -> tuple[int, int]:
        words = os.pread(self._status, _ENOUGH, 0)[-200:].split()
        at = words.index(b"voluntary_ctxt_switches:") if b"voluntary_ctxt_switches:" in words else -1
        return (int(words[at + 1]), int(words[at + 3])) if at >= 0 else (0, 0)

    def _descriptors(self) -> int:
        folder = Path(f"/proc/{self.pid}/fd")
        try:
            return folder.stat().st_size or sum(1 for _ in folder.iterdir())  # Linux 6.2 says it as the size
        except PermissionError:
            return 0


def pss_of(pid: int) -> int | None:
    """Return the proportional set size of *pid* in bytes; None if it cannot be read."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * _KIB
    except OSError:
        return None
    return None


def beneath(roots: Iterable[int]) -> dict[int, set[int]]:
    """Return the processes of each of *roots*: it, those beneath it, and those of its session."""
    wanted = set(roots)
    parents, sessions = _everybody()
    found: dict[int, set[int]] = {root: {root} for root in wanted}
    for pid in parents:
        at, steps = pid, 0
        while at not in wanted and at in parents and steps < len(parents):
            at, steps = parents[at], steps + 1
        root = at if at in wanted else sessions[pid]
        if root in found:
            found[root].add(pid)
    return found


def _everybody() -> tuple[dict[int, int], dict[int, int]]:
    """Return the parent and the session of every process."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of names, often
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - hundreds of them, often
                    fields = file.read(_ENOUGH).rpartition(b") ")[2].split()
                parents[int(name)], sessions[int(name)] = int(fields[1]), int(fields[3])
            except (OSError, IndexError):  # gone between listing and reading
                continue
    return parents, sessions


def boot_id() -> str:
    """Return the id of this boot of the machine, 36 characters."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
