"""ZeroMQ sockets on the event loop, without a task a message.

Theory of operation. libzmq tells through one descriptor that *something* happened to a socket, and only once: whoever
has been told must take everything there is. So a `Drained` socket reads until nothing is left, at most `BATCH` messages
at a time so that others get their turn; and because sending may swallow the sign that something has arrived, it looks
again after every send. `asyncio`'s reader callback is used as it is: a task that waits for the descriptor would cost a
switch a message, and `zmq.asyncio` costs half the throughput.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - this is where the event loop itself is handled
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import zmq  # noqa: TID251 - this is the bus

BATCH = 256
"""Messages taken before others get their turn: about 2 ms of work."""

NOBLOCK = int(zmq.NOBLOCK)
MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain numbers: pyzmq's flags are enums, and combining them for each frame costs a tenth of the rate."""

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's Context. It is made at first use, and anew after a fork: the parent's is of no use then."""
    process = os.getpid()
    held = _contexts.get(process)
    if held is None or held.closed:
        held = _contexts[process] = zmq.Context(io_threads=1)
    return held


def finish() -> None:
    """Close this process's Context once what closed sockets still had to say has left, within the time they gave it.

    For a process that ends by `os._exit`: without it, the last events before the end are lost. Blocks.
    """
    held = _contexts.pop(os.getpid(), None)
    if held is not None:
        held.destroy()  # sockets that were never closed are closed now: `term` alone would wait for them for ever


class Drained:
    """A socket whose messages are handed to a function as they come. Use it as a context manager, on the loop."""

    def __init__(self, socket: zmq.Socket[bytes], on_message: Callable[[list[bytes]], None]) -> None:
        """Take over *socket*; *on_message* gets the frames of each message and must not raise."""
        self.socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._looking = False
        self._closed = False
        self.linger_ms = 0
        """How long libzmq may go on sending, in the background, what was sent before the socket is closed."""

    def __enter__(self) -> Self:
        self._loop.add_reader(self._descriptor, self.drain)
        self.look_again()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and close the socket; what is not sent within `linger_ms` is dropped."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger=self.linger_ms)

    def look_again(self) -> None:
        """Look for messages soon, though the descriptor says nothing."""
        if not self._looking and not self._closed:
            self._looking = True
            self._loop.call_soon(self.drain)

    def drain(self) -> None:
        """Take what is there, up to a batch."""
        self._looking = False
        finished = False
        try:
            finished = self._closed or self._read_batch()
        finally:
            if not finished:  # more to read, or a callback failed: the descriptor will not tell again
                self.look_again()

    def _read_batch(self) -> bool:
        """Read up to a batch; return whether everything is read."""
        receive, take = self.socket.recv_multipart, self._on_message
        for _ in range(BATCH):
            try:
                frames = receive(NOBLOCK)
            except zmq.ZMQError:  # Again: it is empty; or else it was closed by `finish`, and nothing comes any more
                return True
            take(frames)
            if self._closed:
                return True
        return False


class Speaker(Drained):
    """A socket that sends everything to the broker, whatever the broker's readers say they do not want.

    XPUB, not PUB: it hears a listener's first subscription, and so knows when sending begins to have an effect. And its
    subscriptions are set by hand: libzmq hands an unsubscription that nobody made up through every proxy, so with PUB
    any reader of the bus could take the bus from all others.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, high_water: int) -> None:
        """Queue up to *high_water* messages before dropping; connect or bind `socket` once it is entered."""
        socket = context.socket(zmq.XPUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, high_water)
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        super().__init__(socket, self._on_word)
        self.heard = anyio.Event()

    def send(self, topic: bytes, header: bytes, body: bytes) -> None:
        """Send an event. Never waits; drops it if the queue is full.

        Look again now and then: sending may hide what a listener says. Not after every send, for only a new listener
        says what matters here, and on a small machine that look would hold up the very event that was sent.
        """
        send = self.socket.send
        send(topic, MORE)  # three plain sends: `send_multipart` costs three times as much
        send(header, MORE)
        send(body, NOBLOCK)

    def _on_word(self, frames: list[bytes]) -> None:
        if frames[0][:1] == b"\x01":
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")  # for the listener who said it
            self.heard.set()
