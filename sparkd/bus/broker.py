"""The broker: publishers on one socket, subscribers on the other, and libzmq's own proxy between them.

Theory of operation. `zmq.proxy` runs in a thread without the GIL, with a Context of its own, so `term` ends it. The
publishers' side subscribes to everything at once: so a subscription only has to reach the broker to be in force, and a
publisher learns from that first subscription that it is connected. The proxy shows (un)subscriptions on a capture
socket; a subscriber that wants to know when its subscription is in force also subscribes to a probe topic of its own,
and the broker answers that with a message.
"""

from __future__ import annotations

import os
import threading  # noqa: TID251 - zmq.proxy blocks for as long as the broker lives
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import zmq  # noqa: TID251 - this is the bus

from sparkd.bus import zap
from sparkd.bus.sockets import Drained
from sparkd.codec import MAX_EVENT_BYTES

PUB, SUB = "bus.pub", "bus.sub"
PROBE = b"sparkd.probe."
_CAPTURE = "inproc://capture"
_ANSWERS = "inproc://answers"
MAX_FRAME_BYTES = MAX_EVENT_BYTES + 4096


class Broker:
    """The bus of a node. Use `open`."""

    def __init__(
        self,
        runtime: Path,
        *,
        high_water: int = 10_000,
        reader_gids: frozenset[int] = frozenset(),
        on_refused: Callable[[str, str], None] = lambda _domain, _address: None,
    ) -> None:
        """Keep the sockets in the folder *runtime*; queue *high_water* messages per peer before dropping."""
        self._runtime = runtime
        self._high_water = high_water
        self.peers = zap.LocalPeers({}, {SUB: reader_gids}, on_refused=on_refused)
        self.subscriptions: Counter[str] = Counter()
        """How many subscriptions of each topic prefix the broker knows; duplicates count once."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Broker]:
        """Run the broker until the context is left. Raises OSError if the sockets cannot be made."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        try:
            with ExitStack() as stack:
                stack.enter_context(zap.serve(context, self.peers))
                self._answers = _bound(context, zmq.PUB, _ANSWERS)
                stack.callback(self._answers.close, 0)
                capture = _bound(context, zmq.PUB, _CAPTURE)
                stack.enter_context(Drained(_watching(context), self._on_capture))
                publishers, subscribers = self._listen(context, zmq.XSUB, PUB), self._listen(context, zmq.XPUB, SUB)
                publishers.connect(_ANSWERS)
                publishers.send(b"\x01")
                thread = threading.Thread(
                    target=_proxy, args=(publishers, subscribers, capture), name="bus proxy", daemon=True
                )
                thread.start()
                yield self
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(context.term)
            for name in (PUB, SUB):
                (self._runtime / name).unlink(missing_ok=True)

    def _listen(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, name: str) -> zmq.Socket[bytes]:
        path = self._runtime / name
        path.unlink(missing_ok=True)
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, self._high_water)
        socket.setsockopt(zmq.RCVHWM, self._high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        socket.setsockopt(zmq.ZAP_DOMAIN, name.encode())
        before = os.umask(0o117 if name == SUB else 0o177)
        try:
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise OSError(error.errno, f"cannot listen: {error.strerror}", str(path)) from None
        finally:
            os.umask(before)
        return socket

    def _on_capture(self, frames: list[bytes]) -> None:
        told = frames[0]
        topic, on = told[1:], told[:1] == b"\x01"
        if topic.startswith(PROBE):
            if on:
                self._answers.send_multipart([topic, b"", b""])
            return
        name = topic.decode(errors="replace")
        self.subscriptions[name] += 1 if on else -1
        if self.subscriptions[name] <= 0:
            del self.subscriptions[name]


def _bound(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(address)
    return socket


def _watching(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"\x01")
    socket.setsockopt(zmq.SUBSCRIBE, b"\x00")
    socket.connect(_CAPTURE)
    return socket


def _proxy(publishers: zmq.Socket[bytes], subscribers: zmq.Socket[bytes], capture: zmq.Socket[bytes]) -> None:
    """Pass messages on until the Context is terminated."""
    try:
        zmq.proxy(publishers, subscribers, capture)
    except zmq.ContextTerminated:
        pass
    finally:
        for socket in (publishers, subscribers, capture):
            socket.close(linger=0)
