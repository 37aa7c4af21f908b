"""The sending side of a bus client: headers, sequence numbers, and the tails said every second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from sparkd.bus.broker import PUB
from sparkd.bus.sockets import Speaker, context
from sparkd.codec import MAX_EVENT_BYTES, WIRE_VERSION, Header, Message, encode_body, encode_header, new_epoch
from sparkd.errors import LocalMessageError
from sparkd.events import Tails, event_type
from sparkd.privacy import Privacy

TAIL_INTERVAL_S = 1.0
TAILS_AT_ONCE = 1000
"""Topics in one announcement: a service may have as many as it has sensors, an event has a largest size."""
CONNECT_LIMIT_S = 5.0
FAREWELL_MS = 200
"""For the last events to leave when the publisher closes."""
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
        self.published = self.published_bytes = 0

    @asynccontextmanager
    async def open(self, *, on_tick: Callable[[], None] = lambda: None) -> AsyncIterator[Publisher]:
        """Connect, and say tails until the context is left; call *on_tick* as often.

        Raises OSError if no broker answers.
        """
        with Speaker(context(), high_water=self._high_water) as speaker:
            speaker.socket.connect(self._address)
            with anyio.move_on_after(CONNECT_LIMIT_S) as limit:
                await speaker.heard.wait()
            if limit.cancelled_caught:
                raise OSError(f"{self._address}: no broker answers within {CONNECT_LIMIT_S:g} s")
            self._speaker, speaker.linger_ms = speaker, FAREWELL_MS
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._say_tails_at_intervals, on_tick)
                    yield self
                    tasks.cancel_scope.cancel()
            finally:
                self._say_tails()

    def send(self, topic: str, body: bytes, privacy: Privacy, trace: bytes | None = None) -> None:
        """Send an event. Raises LocalMessageError if it is too large."""
        if len(body) > MAX_EVENT_BYTES:
            raise LocalMessageError(f"{topic}: an event of {len(body)} bytes; {MAX_EVENT_BYTES} at the most")
        seq = self._last[topic] = self._last.get(topic, 0) + 1
        wall, mono = time.time_ns(), time.monotonic_ns()
        header = Header(WIRE_VERSION, self._node, self._service, seq, wall, self._epoch, mono, privacy, trace)
        self._speaker.send(topic.encode(), encode_header(header), body)
        self.published += 1
        self.published_bytes += len(body)

    def skip(self, topic: str) -> None:
        """Count an event of *topic* that is not sent: readers see it as lost."""
        self._last[topic] = self._last.get(topic, 0) + 1

    def forward(self, message: Message) -> None:
        """Send an event of another node, header and all."""
        self._speaker.send(message.topic.encode(), encode_header(message.header), message.body)

    async def _say_tails_at_intervals(self, on_tick: Callable[[], None]) -> None:
        while True:
            await anyio.sleep(TAIL_INTERVAL_S)
            self._say_tails()
            self._speaker.look_again()
            on_tick()

    def _say_tails(self) -> None:
        changed = [(topic, seq) for topic, seq in self._last.items() if self._said.get(topic) != seq]
        for start in range(0, len(changed), TAILS_AT_ONCE):
            some = dict(changed[start : start + TAILS_AT_ONCE])
            self._said.update(some)
            self.send(_TAILS.topic, encode_body(Tails(last=some)), _TAILS.privacy)
            del self._last[_TAILS.topic]
