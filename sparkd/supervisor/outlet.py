"""What a unit's process writes, as it comes: its output line by line, and its word on how it ended.

It connects twice to a socket of its own, first for the one, then for the other. Connections of any other process are
closed; who connected is known by the pid, as the kernel took it down.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from sparkd.zygote.lines import Lines

CHUNK_BYTES = 1 << 16
FLOOD_CHUNKS = 256
FLOOD_PAUSE_S = 0.02
"""After so many full chunks in a row a unit gets at most 3 MB/s of the core's attention."""
LEFTOVER_BYTES = 1 << 20
"""How much is read after the end; a process that got away from it may go on writing."""
MAX_RESULT_BYTES = 64 << 10
_CREDENTIALS = struct.Struct("iII")


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at *path*, for any user who can reach it. Raises OSError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(4)
        listener.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


class Outlet:
    """The two connections of one process."""

    def __init__(self, listener: socket.socket, on_line: Callable[[str], None]) -> None:
        """Take connections from *listener*; hand each line to *on_line*."""
        self._listener, self._on_line = listener, on_line
        self._lines = Lines()
        self._result = bytearray()
        self._open: list[socket.socket] = []
        """The connections taken, in their order; one that has ended stays."""
        self._ended: set[socket.socket] = set()

    @property
    def result(self) -> bytes:
        """What it said of its end; nothing if that was too much."""
        return bytes(self._result) if len(self._result) <= MAX_RESULT_BYTES else b""

    async def follow(self, pid: int) -> None:
        """Hand on what the process *pid* writes, until cancelled or both connections have ended."""
        async with anyio.create_task_group() as readers:
            while len(self._open) < 2:  # noqa: PLR2004 - output and result
                await anyio.wait_readable(self._listener)
                for connection in self._accepted(pid):
                    readers.start_soon(self._read_on, connection)

    def finish(self, pid: int) -> None:
        """Take what is left of a process that has ended, without waiting, and close."""
        self._accepted(pid)
        for connection in self._open:
            left = LEFTOVER_BYTES
            while left > 0 and (chunk := self._read(connection)):
                left -= len(chunk)
            connection.close()
        for line in self._lines.flush():
            self._on_line(line)

    def _accepted(self, pid: int) -> list[socket.socket]:
        """Take the connections that wait; return those of *pid*."""
        fresh: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while len(self._open) < 2:  # noqa: PLR2004 - output and result
                connection, _ = self._listener.accept()
                connection.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
                if _pid_of(connection) == pid:
                    fresh.append(connection)
                    self._open.append(connection)
                else:
                    connection.close()
        return fresh

    async def _read_on(self, connection: socket.socket) -> None:
        full = 0
        while connection not in self._ended:
            await anyio.wait_readable(connection)
            chunk = self._read(connection)
            full = full + 1 if chunk and len(chunk) == CHUNK_BYTES else 0
            if full > FLOOD_CHUNKS:
                await anyio.sleep(FLOOD_PAUSE_S)

    def _read(self, connection: socket.socket) -> bytes:
        """Read and take a chunk; return it, nothing if there is none now or ever again."""
        if connection in self._ended:
            return b""
        try:
            chunk = connection.recv(CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            chunk = b""
        if not chunk:
            self._ended.add(connection)
        elif connection is self._open[0]:
            for line in self._lines.feed(chunk):
                self._on_line(line)
        else:
            self._result += chunk[: MAX_RESULT_BYTES + 1 - len(self._result)]
        return chunk


def _pid_of(connection: socket.socket) -> int:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(packed)[0]
    return pid
