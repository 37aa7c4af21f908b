"""The Unix socket on which the node answers JSON-RPC: made, guarded and taken away again."""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
import contextlib
import os
import select
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio

from sparkd.calls.handlers import OnError
from sparkd.rpc.access import Access
from sparkd.rpc.connection import Answer, Connection, RpcCounts, Setting
from sparkd.rpc.jsonrpc import BUSY, Refusal, refusal_line
from sparkd.rpc.limits import RpcLimits
from sparkd.rpc.peer import Peer, peer_of

BACKLOG = 512
"""Clients that may knock at once; the kernel's own limit is usually 4096 (net.core.somaxconn)."""


@asynccontextmanager
async def serve_rpc(
    path: Path, answer: Answer, *, access: Callable[[], Access], limits: RpcLimits, on_error: OnError
) -> AsyncIterator[RpcCounts]:
    """Answer clients on *path* by *answer* while the block runs. Raises OSError if the socket cannot be made.

    *access* says who is an admin: others may take three quarters of the connections, and one user a quarter.

    A socket left there by a daemon that was killed is replaced: who may run is settled by the lock on `core.pid`.
    """
    listener = _listen(path)
    let_in(path, access())
    async with anyio.create_task_group() as tasks:
        setting = Setting(limits=limits, answer=answer, tasks=tasks, on_error=on_error)
        clients: set[_Client] = set()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(
            lambda: _Client(setting, access, clients), sock=listener, backlog=BACKLOG
        )
        try:
            yield setting.counts
        finally:
            server.close()
            for client in list(clients):
                client.abort()
            tasks.cancel_scope.cancel()
            _unlink(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()


def let_in(path: Path, access: Access) -> None:
    """Let those open the socket at *path*, whom a rule of *access* may be for; a rule decides about each call.

    Where only admins may call anything, the socket is the daemon's user's and the admin group's (0660), and its folder
    stays as it is. Else everybody may open it (0666) and pass through the folder, without listing it: whatever else is
    in there has to be closed by its own mode. Raises OSError if the folder is not ours to open.
    """
    if access.admin_gid is not None:
        with contextlib.suppress(PermissionError):  # not root, and not a member: the user's own socket then
            os.chown(path, -1, access.admin_gid)
    folder = path.parent
    mode = stat.S_IMODE(folder.stat().st_mode)
    if access.lets_others_in:
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
        path.chmod(0o666)
    else:
        path.chmod(0o660)


def _listen(path: Path) -> socket.socket:
    _unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o660)  # nobody can connect before it listens, so there is no moment with another mode
        listener.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
    except OSError:
        listener.close()
        raise
    return listener


class _Client(asyncio.Protocol):
    """What the event loop tells of one connection, told on."""

    def __init__(self, setting: Setting, access: Callable[[], Access], clients: set[_Client]) -> None:
        self._setting = setting
        self._access = access
        self._clients = clients
        self._connection: Connection | None = None
        self._transport: asyncio.Transport
        self.peer: Peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        counts, limit = self._setting.counts, self._setting.limits.max_connections
        if counts.open >= limit:
            self._turn_away(Refusal(BUSY, f"{limit} clients are connected; try again later", kind="unavailable"))
            return
        try:
            self.peer = peer_of(transport.get_extra_info("socket"))
        except OSError:  # gone before it was let in
            self._transport.abort()
            return
        refusal = self._stranger()
        if refusal is not None:
            self._turn_away(refusal)
            return
        counts.connections += 1
        counts.open += 1
        self._clients.add(self)
        self._connection = Connection(self._setting, self._transport, peer=self.peer)

    def _stranger(self) -> Refusal | None:
        """Return why one who is no admin may not connect: it must not take the places of others, or of admins."""
        access, peer = self._access(), self.peer
        if access.is_admin(peer):
            return None
        others = [client.peer for client in self._clients if not access.is_admin(client.peer)]
        limit = self._setting.limits.max_connections
        if len(others) >= limit * 3 // 4 or sum(other.uid == peer.uid for other in others) >= max(limit // 4, 1):
            return Refusal(
                BUSY, "too many clients are connected that are no admins; try again later", kind="unavailable"
            )
        return None

    def _turn_away(self, refusal: Refusal) -> None:
        self._setting.counts.refused += 1
        self._transport.write(refusal_line(refusal))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.received(data)

    def eof_received(self) -> bool:
        if self._connection is None or self._closed_altogether():
            self._transport.abort()
            return False
        self._connection.no_more()
        return True  # it may still read: `echo ... | socat - UNIX:...` does

    def _closed_altogether(self) -> bool:
        """Whether the client has closed, not only stopped sending: Linux says so by POLLHUP (unix_poll)."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.outlet.pause()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.outlet.resume()
            self._connection.go_on()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        if self._connection is not None:
            self._clients.discard(self)
            self._setting.counts.open -= 1
            self._connection.lost()

    def abort(self) -> None:
        """Close without waiting for the client to read."""
        self._transport.abort()
