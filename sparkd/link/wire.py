"""ZeroMQ sockets of the link: drained on the event loop, connections watched, and hung up on.

Messages come as zmq frames, because only they carry what libzmq knows of their connection: the `User-Id` that ZAP gave
it, and its descriptor. Reading stops being possible only when everything is read, and a socket may have got room for
what waits to be sent whenever its descriptor fires, so both are looked at each time.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - timers of the event loop: a connection that is hung up on needs no task of its own
import itertools
import os
import socket as sockets
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import zmq  # noqa: TID251 - the link speaks ZeroMQ

from sparkd.bus.sockets import BATCH, Drained
from sparkd.link.options import FAREWELL_MS

USER_ID = "User-Id"
DESCRIPTOR = "__fd"
"""libzmq's property behind ZMQ_SRCFD: the descriptor of the connection a message came by."""

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain numbers: pyzmq's flags are enums, and combining them for each frame costs a tenth of the rate."""
_monitors = itertools.count()


class LinkSocket(Drained):
    """A drained socket that hands out frames with their properties, and says when there may be room to send."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[zmq.Frame]], None],
        *,
        on_writable: Callable[[], None] = lambda: None,
    ) -> None:
        """Take over *socket*. Neither callback may raise for what a peer sends."""
        super().__init__(socket, lambda _frames: None)
        self._on_frames = on_frames
        self._on_writable = on_writable
        self._monitored = False

    @contextmanager
    def monitored(self, on_event: Callable[[int, int], None]) -> Iterator[None]:
        """Hand every connection event of the socket (its kind, and its value) to *on_event*."""
        endpoint = f"inproc://link-monitor-{next(_monitors)}"
        self.socket.monitor(endpoint, zmq.EVENT_ALL)
        self._monitored = True
        pair: zmq.Socket[bytes] = self.socket.context.socket(zmq.PAIR)
        pair.rcvhwm = 0  # the I/O thread waits while a monitor's queue is full: it must never be
        pair.connect(endpoint)

        def on_frames(frames: list[zmq.Frame]) -> None:
            kind, value = struct.unpack("=hi", bytes(frames[0].bytes))
            on_event(kind, value)

        with LinkSocket(pair, on_frames):
            try:
                yield
            finally:
                self._stop_monitor()

    def close(self, *, farewell: bool = False) -> None:
        """Stop listening and close the socket; a last message, if a *farewell* was said, gets a moment to leave."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self._stop_monitor()
            self.socket.close(linger=FAREWELL_MS if farewell else 0)

    def send(self, frames: Sequence[bytes]) -> bool:
        """Give *frames* to zmq; return False if its queue for the peer is full.

        Raises BrokenPipeError if there is no such peer, or the socket is closed.
        """
        if self._closed:
            raise BrokenPipeError("closed")
        sent = self._try_send(frames) or (self._writable() and self._try_send(frames))
        self.look_again()
        return sent

    def drain(self) -> None:
        """Read what is there, up to a batch, then let what waits be sent."""
        self._looking = False
        finished = False
        try:
            finished = self._closed or self._read_batch()
        finally:
            if not finished:  # more to read, or a callback failed: the descriptor will not tell again
                self.look_again()

    def _stop_monitor(self) -> None:
        # Before its reader goes: an event that nobody can take would hold up the I/O thread, and with it the Context.
        if self._monitored:
            self._monitored = False
            self.socket.disable_monitor()

    def _read_batch(self) -> bool:
        for _ in range(BATCH):
            try:
                frames = self._receive()
            except zmq.Again:
                self._on_writable()
                return True
            self._on_frames(frames)
            if self._closed:
                return True
        return False

    def _receive(self) -> list[zmq.Frame]:
        frame = self.socket.recv(_NOBLOCK, copy=False)
        frames = [frame]
        while frame.more:
            frame = self.socket.recv(_NOBLOCK, copy=False)
            frames.append(frame)
        return frames

    def _try_send(self, frames: Sequence[bytes]) -> bool:
        send, *more = self.socket.send, *frames
        last = more.pop()
        try:
            for frame in more:
                send(frame, _MORE)
            send(last, _NOBLOCK)
        except zmq.Again:  # of the first frame: zmq takes a message whole or not at all
            return False
        except zmq.ZMQError as error:  # EHOSTUNREACH from a ROUTER, or a socket in ruins: gone either way
            raise BrokenPipeError(error.strerror) from None
        return True

    def _writable(self) -> bool:
        # A send looks for new or relieved connections only every few milliseconds; asking for EVENTS always does.
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)


def later(delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Call *callback* in *delay_s*; return what takes that back."""
    return asyncio.get_running_loop().call_later(delay_s, callback).cancel


def peer_of(descriptor: int, port: int) -> tuple[str, int] | None:
    """Return who is at the other end of an accepted connection, or None if it is one no more.

    The descriptor is libzmq's own: it may be closed, or be something else by now, which *port* (that was listened on)
    tells.
    """
    try:
        with _held(descriptor) as connection:
            return _other_end(connection, port)
    except OSError:
        return None


def hang_up(descriptor: int, port: int, peer: tuple[str, int]) -> None:
    """End the accepted connection to *peer*, if it still is that. libzmq sees the end of it and closes it."""
    try:
        with _held(descriptor) as connection:
            if _other_end(connection, port) == peer:
                connection.shutdown(sockets.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself


def _held(descriptor: int) -> sockets.socket:
    """Return a second handle on a connection: libzmq may close its own at any time, and another may get the number."""
    copy = os.dup(descriptor)
    try:
        return sockets.socket(fileno=copy)
    except OSError:  # not a socket
        os.close(copy)
        raise


def _other_end(connection: sockets.socket, port: int) -> tuple[str, int] | None:
    own = connection.getsockname()
    if not isinstance(own, tuple) or own[1] != port:
        return None
    peer = connection.getpeername()
    return str(peer[0]), int(peer[1])
