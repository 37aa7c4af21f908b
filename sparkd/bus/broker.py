"""The broker: publishers on one socket, subscribers on the other, and libzmq's own proxy between them.

Theory of operation. `zmq.proxy` runs in a thread without the GIL, with a Context of its own, so `term` ends it. The
publishers' side subscribes to everything at once: so a subscription only has to reach the broker to be in force, and a
publisher learns from that first subscription that it is connected. The proxy shows (un)subscriptions on a capture
socket; a subscriber that wants to know when its subscription is in force also subscribes to a probe topic of its own,
and the broker answers that with a message.

What a subscriber sends reaches the publishers, and libzmq passes on even an unsubscription that nobody made up. So
publishers take any word of the broker's as "send everything" (`Speaker`), and the broker says one that no subscriber
can take back, because none knows it.
"""

from __future__ import annotations

import contextlib
import os
import threading  # noqa: TID251 - zmq.proxy blocks for as long as the broker lives
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import zmq  # noqa: TID251 - this is the bus

from sparkd.bus import zap
from sparkd.bus.sockets import Drained, Speaker
from sparkd.codec import MAX_EVENT_BYTES

PUB, SUB = "bus.pub", "bus.sub"
PROBE = b"sparkd.probe."
_CAPTURE = "inproc://capture"
_ANSWERS = "inproc://answers"
MAX_FRAME_BYTES = MAX_EVENT_BYTES + 4096
MAX_WORD_BYTES = 1024
"""Of what a subscriber sends: a topic."""
MAX_KNOWN = 10_000
"""Subscriptions that are listed; more come only from a reader that makes them up."""
CAPTURE_QUEUE = 10_000
"""(Un)subscriptions that wait to be looked at; services that all start at once make hundreds."""
UNPASSED = 1000
"""Messages of one publisher that wait to be passed on; more wait on its own side, where it is the one who pays."""
_WORD_BYTES = 16


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
        """The topic prefixes subscribed to, each counted once however many subscribe; for people to look at."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Broker]:
        """Run the broker until the context is left. Raises OSError if the sockets cannot be made."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        try:
            with ExitStack() as stack:
                stack.enter_context(zap.serve(context, self.peers))
                self._answers = stack.enter_context(Speaker(context, high_water=self._high_water))
                self._answers.socket.bind(_ANSWERS)
                self._start(context, stack)
                await self._answers.heard.wait()
                yield self
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(context.term)
            for name in (PUB, SUB):
                (self._runtime / name).unlink(missing_ok=True)

    def _start(self, context: zmq.Context[zmq.Socket[bytes]], stack: ExitStack) -> None:
        with ExitStack() as unless_started:
            capture = _closing(unless_started, context.socket(zmq.PUB))
            capture.setsockopt(zmq.SNDHWM, CAPTURE_QUEUE)
            capture.bind(_CAPTURE)
            stack.enter_context(Drained(_watching(context), self._on_capture))
            publishers = _closing(unless_started, context.socket(zmq.XSUB))
            subscribers = _closing(unless_started, context.socket(zmq.XPUB))
            self._listen(publishers, PUB, max_bytes=MAX_FRAME_BYTES)
            self._listen(subscribers, SUB, max_bytes=MAX_WORD_BYTES)
            publishers.connect(_ANSWERS)
            publishers.send(b"\x01")
            publishers.send(b"\x01" + os.urandom(_WORD_BYTES))
            close = unless_started.pop_all()
            parts = (publishers, subscribers, capture, close)
            threading.Thread(target=_pass_on, args=parts, name="bus proxy", daemon=True).start()

    def _listen(self, socket: zmq.Socket[bytes], name: str, *, max_bytes: int) -> None:
        path = self._runtime / name
        path.unlink(missing_ok=True)
        socket.setsockopt(zmq.SNDHWM, self._high_water)
        socket.setsockopt(zmq.RCVHWM, min(self._high_water, UNPASSED))
        socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        socket.setsockopt(zmq.ZAP_DOMAIN, name.encode())
        before = os.umask(0o117 if name == SUB else 0o177)
        try:
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"cannot listen: {error.strerror}", str(path)) from None
        finally:
            os.umask(before)
        for gid in self.peers.gids.get(name, ()):
            with contextlib.suppress(PermissionError):  # not root, and not a member: the user's own socket then
                os.chown(path, -1, gid)

    def _on_capture(self, frames: list[bytes]) -> None:
        told = frames[0]
        topic, on = told[1:], told[:1] == b"\x01"
        if topic.startswith(PROBE):
            if on:
                self._answers.send(topic, b"", b"")
                self._answers.look_again()
            return
        name = topic.decode(errors="replace")
        if not on:
            self.subscriptions.pop(name, None)
        elif len(self.subscriptions) < MAX_KNOWN:
            self.subscriptions[name] = 1


def _closing(stack: ExitStack, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    socket.setsockopt(zmq.LINGER, 0)
    stack.callback(socket.close)
    return socket


def _watching(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, CAPTURE_QUEUE)
    socket.setsockopt(zmq.SUBSCRIBE, b"\x01")
    socket.setsockopt(zmq.SUBSCRIBE, b"\x00")
    socket.connect(_CAPTURE)
    return socket


def _pass_on(
    publishers: zmq.Socket[bytes], subscribers: zmq.Socket[bytes], capture: zmq.Socket[bytes], close: ExitStack
) -> None:
    """Pass messages on until the Context is terminated, then close the sockets: `term` waits for that."""
    with close, contextlib.suppress(zmq.ContextTerminated):
        zmq.proxy(publishers, subscribers, capture)
