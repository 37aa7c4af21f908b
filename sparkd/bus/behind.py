"""Readers that do not read: found when the broker's queues take too much memory, and cut off.

Theory of operation. libzmq bounds a queue by messages, never by bytes, and tells nobody how full it is: 10,000 messages
of 1 MiB would wait for one reader that was stopped. But the kernel knows who does not read: the connection to such a
reader is full and stays so. So while the process has grown by more than the bound, the connections of the reading
socket are looked at for a moment; one that never had room in that time is shut down. libzmq then frees what waited for
it. A reader that lives connects again by itself, and counts by the sequence numbers what it has missed.

The memory is looked at in a thread: to wake the event loop for each look would cost an idle node more than the look.

The connections are found among the process's own descriptors, by the name of the socket they were accepted on. Each is
looked at through a duplicate: the number itself may belong to something else a moment later.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading  # noqa: TID251 - the event that ends a thread
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio import to_thread

LOOK_INTERVAL_S = 0.1
"""Between two looks at the memory: nothing tells of it. A program can send 100 MB meanwhile."""
SAMPLES = 10
SAMPLE_INTERVAL_S = 0.01
"""A reader that reads has room once in a tenth of a second."""
_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True, slots=True)
class Cut:
    """A reader that was cut off."""

    pid: int
    program: str
    """The name the kernel has for it; nothing if it is gone."""


@dataclass
class QueueWatch:
    """Keeps the queues of the reading socket at *path* within *max_bytes* of memory, about."""

    path: Path
    max_bytes: int
    on_cut: Callable[[Cut], None] = lambda _cut: None
    cut_off: int = 0
    held_bytes: int = 0
    """How much more memory the process took than at its least, at the last look."""
    _least: int = field(default_factory=lambda: own_bytes())  # noqa: PLW0108 - defined below

    async def run(self) -> None:
        """Watch for ever."""
        over, own_thread = threading.Event(), anyio.CapacityLimiter(1)
        try:
            while True:
                await to_thread.run_sync(self._grown, over, limiter=own_thread, abandon_on_cancel=True)
                await self.look()
        finally:
            over.set()

    def _grown(self, over: threading.Event) -> None:
        """Return when the process has grown by more than the bound, or when it is *over*. Blocks."""
        while not over.wait(LOOK_INTERVAL_S) and not self._over():
            pass

    async def look(self) -> None:
        """Cut off who does not read, if the process has grown by more than the bound."""
        if not self._over():
            return
        behind = await self._behind()
        try:
            for connection in behind:
                self._cut(connection)
        finally:
            for connection in behind:
                connection.close()
        if behind:
            await anyio.sleep(SAMPLE_INTERVAL_S)  # for libzmq to let go of what waited
        await to_thread.run_sync(give_back)
        if not behind:  # the queues are not what grew: from here on it is measured anew
            self._least = own_bytes()

    def _over(self) -> bool:
        own = own_bytes()
        self._least = min(self._least, own)
        self.held_bytes = own - self._least
        return self.held_bytes > self.max_bytes

    async def _behind(self) -> list[socket.socket]:
        """Return the connections that had no room for anything at any of some looks."""
        full = _connections(str(self.path))
        try:
            for _ in range(SAMPLES):
                full, room = _by_room(full)
                for connection in room:
                    connection.close()
                if not full:
                    break
                await anyio.sleep(SAMPLE_INTERVAL_S)
        except BaseException:
            for connection in full:
                connection.close()
            raise
        return full

    def _cut(self, connection: socket.socket) -> None:
        self.cut_off += 1
        with contextlib.suppress(OSError):  # it is gone by itself
            pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            connection.shutdown(socket.SHUT_RDWR)
            self.on_cut(Cut(pid, _program(pid)))


def own_bytes() -> int:
    """Return the memory this process has of its own, without files and what is shared, in bytes."""
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fields = os.read(descriptor, 256).split()
    finally:
        os.close(descriptor)
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Return freed memory to the system, where the C library can (glibc): else it would count as held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _connections(path: str) -> list[socket.socket]:
    """Return a duplicate of each connection that was accepted on the Unix socket at *path*."""
    found: dict[int, socket.socket] = {}
    for entry in list(Path("/proc/self/fd").iterdir()):
        connection = _duplicate(int(entry.name))
        if connection is None:
            continue
        inode = os.fstat(connection.fileno()).st_ino
        if inode not in found and _accepted_on(connection, path):
            found[inode] = connection
        else:
            connection.close()
    return list(found.values())


def _duplicate(descriptor: int) -> socket.socket | None:
    """Return a duplicate of *descriptor* as a socket; None if it is none, or no more."""
    copy = -1
    try:
        copy = os.dup(descriptor)
        return socket.socket(fileno=copy)
    except OSError:
        if copy >= 0:
            os.close(copy)
        return None


def _accepted_on(connection: socket.socket, path: str) -> bool:
    try:
        listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return connection.family == socket.AF_UNIX and connection.getsockname() == path and not listens
    except OSError:
        return False


def _by_room(connections: list[socket.socket]) -> tuple[list[socket.socket], list[socket.socket]]:
    """Return those that are full, and those that have room or are gone."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLOUT)
    told = {descriptor for descriptor, _ in poll.poll(0)}
    room = [connection for connection in connections if connection.fileno() in told]
    return [connection for connection in connections if connection.fileno() not in told], room


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""
