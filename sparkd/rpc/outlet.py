"""What goes to one client: written at once, bounded when it does not read."""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
from collections.abc import Callable

import anyio

from sparkd.rpc.limits import RpcLimits

HIGH_WATER_BYTES = 64 << 10
"""Unread answers from which on streams wait, and nothing more is read from the client (asyncio's own default)."""


class Outlet:
    """Writes to a transport. A client that does not read is dropped: past the bound, or past the time."""

    def __init__(self, transport: asyncio.Transport, limits: RpcLimits, on_slow: Callable[[], None]) -> None:
        """Write to *transport*; *on_slow* is told before a slow client is dropped."""
        transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._transport = transport
        self._limits = limits
        self._on_slow = on_slow
        self._room: anyio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self.full = False
        """Whether the client should read before anything more is done for it."""

    def write(self, line: bytes) -> None:
        """Send *line*, unless the client is gone or is dropped for it."""
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(line)
        if self.full and transport.get_write_buffer_size() > self._limits.max_unread_bytes + len(line):
            self._drop()

    def pause(self) -> None:
        """Learn from the transport that the client does not keep up."""
        self.full = True
        self._watch()

    def resume(self) -> None:
        """Learn from the transport that the client has caught up."""
        self.full = False
        self._stop_watching()
        if self._room is not None:
            self._room.set()
            self._room = None

    def close(self) -> None:
        """Learn that the connection is gone."""
        self.resume()

    async def room(self) -> None:
        """Return when the client has read enough that more may be sent; if it is gone, its calls are cancelled here."""
        if self.full or self._transport.is_closing():
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    def _watch(self) -> None:
        """Look again after a while whether the client has read anything."""
        self._stop_watching()
        self._unread = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._limits.read_timeout_s, self._check)

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() < self._unread:
            self._watch()
        else:
            self._drop()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self) -> None:
        self._stop_watching()
        if not self._transport.is_closing():
            self._on_slow()
            self._transport.abort()
