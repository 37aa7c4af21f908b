"""The sending side of a bus client: headers, sequence numbers, and the tails said every second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import zmq  # noqa: TID251 - this is the bus

from sparkd.bus.broker import MAX_FRAME_BYTES, PUB
from sparkd.bus.sockets import Drained, context
from sparkd.codec import MAX_EVENT_BYTES, WIRE_VERSION, Header, Message, encode_body, encode_header, new_epoch
from sparkd.errors import LocalMessageError
from sparkd.events import Tails, event_type
from sparkd.privacy import Privacy

TAIL_INTERVAL_S = 1.0
CONNECT_LIMIT_S = 5.0
_TAILS = event_type(Tails)


class Publisher:
    """One service's voice on the bus. Use `open`; sending never waits."""

    def __init__(self, runtime: Path, *, node: str, service: str, high_water: int) -> None:
        """Speak as *service* of *node* through the broker in the folder *runtime*."""
        self._address = f"ipc://{runtime / PUB}"
        self._node, self._service = node, service
        self._high_water = high_water
        self._epoch = new_epoch()
        self._last: dict[str, int] = {}
        self._said: dict[str, int] = {}
        self._connected = anyio.Event()
        self.published = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Publisher]:
        """Connect, and say tails until the context is left. Raises OSError if no broker answers."""
        # XPUB, not PUB: it hears the broker's first subscription, and so knows when sending begins to have an effect.
        socket = context().socket(zmq.XPUB)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.SNDHWM, self._high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._socket = socket
        with Drained(socket, lambda _subscription: self._connected.set()):
            socket.connect(self._address)
            with anyio.move_on_after(CONNECT_LIMIT_S) as limit:
                await self._connected.wait()
            if limit.cancelled_caught:
                raise OSError(f"{self._address}: no broker answers within {CONNECT_LIMIT_S:g} s")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._say_tails)
                yield self
                tasks.cancel_scope.cancel()

    def send(self, topic: str, body: bytes, privacy: Privacy, trace: bytes | None = None) -> None:
        """Send an event. Raises LocalMessageError if it is too large."""
        if len(body) > MAX_EVENT_BYTES:
            raise LocalMessageError(f"{topic}: an event of {len(body)} bytes; {MAX_EVENT_BYTES} at the most")
        seq = self._last[topic] = self._last.get(topic, 0) + 1
        wall, mono = time.time_ns(), time.monotonic_ns()
        header = Header(WIRE_VERSION, self._node, self._service, seq, wall, self._epoch, mono, privacy, trace)
        self._socket.send_multipart((topic.encode(), encode_header(header), body), zmq.NOBLOCK)
        self.published += 1

    def forward(self, message: Message) -> None:
        """Send an event of another node, header and all."""
        self._socket.send_multipart((message.topic.encode(), encode_header(message.header), message.body), zmq.NOBLOCK)

    async def _say_tails(self) -> None:
        while True:
            await anyio.sleep(TAIL_INTERVAL_S)
            changed = {topic: seq for topic, seq in self._last.items() if self._said.get(topic) != seq}
            if changed:
                self._said.update(changed)
                self.send(_TAILS.topic, encode_body(Tails(last=changed)), _TAILS.privacy)
                self._last.pop(_TAILS.topic)
