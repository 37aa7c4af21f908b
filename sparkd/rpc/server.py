"""The Unix socket on which the node answers JSON-RPC: made, guarded and taken away again."""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
import contextlib
import grp
import os
import select
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio

from sparkd.calls.handlers import OnError
from sparkd.config import RpcConfig
from sparkd.rpc.connection import Answer, Connection, RpcCounts, Setting
from sparkd.rpc.jsonrpc import BUSY, Refusal, refusal_line
from sparkd.rpc.limits import RpcLimits
from sparkd.rpc.peer import Access, peer_of

BACKLOG = 512
"""Clients that may knock at once; the kernel's own limit is usually 4096 (net.core.somaxconn)."""


def access_of(config: RpcConfig) -> Access:
    """Return who may do what, with the admin group looked up; a group that does not exist has no members."""
    try:
        gid: int | None = grp.getgrnam(config.admin_group).gr_gid
    except KeyError:
        gid = None
    return Access(admin_group=config.admin_group, admin_gid=gid, readers=config.readers)


@asynccontextmanager
async def serve_rpc(
    path: Path, answer: Answer, *, access: Access, limits: RpcLimits, on_error: OnError
) -> AsyncIterator[RpcCounts]:
    """Answer clients on *path* by *answer* while the block runs. Raises OSError if the socket cannot be made.

    A socket left there by a daemon that was killed is replaced: who may run is settled by the lock on `core.pid`.
    """
    listener = _listen(path, access.admin_gid)
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


def _listen(path: Path, gid: int | None) -> socket.socket:
    _unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o660)  # nobody can connect before it listens, so there is no moment with another mode
        if gid is not None:
            with contextlib.suppress(PermissionError):  # not root, and not a member: the user's own socket then
                os.chown(path, -1, gid)
        listener.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
    except OSError:
        listener.close()
        raise
    return listener


class _Client(asyncio.Protocol):
    """What the event loop tells of one connection, told on."""

    def __init__(self, setting: Setting, access: Access, clients: set[_Client]) -> None:
        self._setting = setting
        self._access = access
        self._clients = clients
        self._connection: Connection | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        counts, limit = self._setting.counts, self._setting.limits.max_connections
        if counts.open >= limit:
            counts.refused += 1
            refusal = Refusal(BUSY, f"{limit} clients are connected; try again later", kind="unavailable")
            self._transport.write(refusal_line(refusal))
            self._transport.close()
            return
        try:
            peer = peer_of(transport.get_extra_info("socket"))
        except OSError:  # gone before it was let in
            self._transport.abort()
            return
        counts.connections += 1
        counts.open += 1
        self._clients.add(self)
        self._connection = Connection(self._setting, self._transport, peer=peer, role=self._access.role(peer))

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
