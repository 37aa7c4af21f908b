"""The receiving side of a bus client: one socket a subscription, drained into a bounded queue."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import anyio
import zmq  # noqa: TID251 - this is the bus

from sparkd.bus.broker import MAX_FRAME_BYTES, PROBE, SUB
from sparkd.bus.gaps import GapCounter
from sparkd.bus.sockets import BATCH, Drained, context
from sparkd.codec import Header, Message, decode_body, decode_header, decode_topic
from sparkd.errors import RemoteMessageError
from sparkd.events import Tails, event_type, topic_matches
from sparkd.service import Policy, Received

E = TypeVar("E")

CONNECT_LIMIT_S = 5.0
_TAILS = event_type(Tails).topic
_UNWANTED = "?"
"""Stands for a topic that only begins like one of ours; no topic looks like it."""
MAX_TOPICS = 10_000

_Held: TypeAlias = tuple[str, Header, bytes]


class _Socket(Drained):
    """A SUB socket read by three plain receives a message: `recv_multipart` costs a third of the rate."""

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[bytes, bytes, bytes], None]) -> None:
        super().__init__(socket, lambda _frames: None)
        self._take = take
        self.malformed = 0

    def drain(self) -> None:
        self._looking = False
        if self._closed:
            return
        receive, option, take = self.socket.recv, self.socket.getsockopt, self._take
        try:
            for _ in range(BATCH):
                topic = receive(zmq.NOBLOCK)
                if option(zmq.RCVMORE):
                    header = receive(zmq.NOBLOCK)
                    if option(zmq.RCVMORE):
                        body = receive(zmq.NOBLOCK)
                        if not option(zmq.RCVMORE):
                            take(topic, header, body)
                            continue
                self._skip()
        except zmq.Again:
            return
        self.look_again()

    def _skip(self) -> None:
        self.malformed += 1
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv(zmq.NOBLOCK)


class Subscription(Generic[E]):
    """An open subscription; see `sparkd.service.Subscription` for what it promises."""

    def __init__(
        self,
        runtime: Path,
        topics: tuple[str, ...],
        *,
        decode: Callable[[bytes], E] | None,
        policy: Policy,
        limit: int,
        high_water: int,
    ) -> None:
        """Subscribe to *topics* and beneath; *decode* makes an event of a body, None hands out `Message`."""
        self.topics, self.policy, self.limit = topics, policy, limit
        self._address = f"ipc://{runtime / SUB}"
        self._decode = decode
        self._high_water = high_water
        self._queue: deque[_Held] = deque()
        self._latest: dict[str, _Held] = {}
        self._topics: dict[bytes, str] = {}
        self._arrived = anyio.Event()
        self._in_force = anyio.Event()
        self._probe = PROBE + os.urandom(8).hex().encode()
        self._gaps = GapCounter()
        self._malformed = 0
        self._overrun = False
        self.received = self.dropped = 0

    @property
    def lost(self) -> int:
        """How many events of these topics were sent and never came."""
        return self._gaps.lost

    @property
    def malformed(self) -> int:
        """How many events were no events, or not of the type asked for."""
        return self._malformed + self._socket.malformed

    def stats(self) -> dict[str, Any]:
        """Return the counters, for `sparkctl bus`."""
        return {
            "topic": " ".join(self.topics),
            "policy": self.policy.value,
            "received": self.received,
            "lost": self.lost,
            "dropped": self.dropped,
            "malformed": self.malformed,
            "queued": len(self._queue) + len(self._latest),
        }

    async def __aenter__(self) -> Self:
        socket = context().socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, self._high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        for topic in (*self.topics, _TAILS):
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.setsockopt(zmq.SUBSCRIBE, self._probe)  # last: when it is in force, so are those before
        self._socket = _Socket(socket, self._take)
        self._socket.__enter__()
        try:
            socket.connect(self._address)
            with anyio.move_on_after(CONNECT_LIMIT_S) as limit:
                await self._in_force.wait()
        except BaseException:
            self._socket.close()
            raise
        if limit.cancelled_caught:
            self._socket.close()
            raise OSError(f"{self._address}: no broker answers within {CONNECT_LIMIT_S:g} s")
        socket.setsockopt(zmq.UNSUBSCRIBE, self._probe)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received[E]:
        """Return the next event. Raises BufferError under the policy `all` if the reader was too slow for its bound."""
        while True:
            frames = self._next()
            if frames is None:
                if self._overrun:
                    self._overrun = False
                    raise BufferError(f"{' '.join(self.topics)}: more than {self.limit} events wait to be read")
                self._arrived = anyio.Event()
                await self._arrived.wait()
                continue
            topic, header, body = frames
            try:
                event: Any = Message(topic, header, body) if self._decode is None else self._decode(body)
            except RemoteMessageError:
                self._malformed += 1
                continue
            return Received(topic, header, event)

    def _next(self) -> _Held | None:
        if self._queue:
            return self._queue.popleft()
        if self._latest:
            return self._latest.pop(next(iter(self._latest)))
        return None

    def _take(self, topic_frame: bytes, header_frame: bytes, body: bytes) -> None:
        """Count and keep an event at once, so that what is dropped here is never taken for lost on the way."""
        if topic_frame == self._probe:
            self._in_force.set()
            return
        try:
            topic = self._topics.get(topic_frame) or self._learn(topic_frame)
            header = decode_header(header_frame)
            if topic == _TAILS and not self._wants(_TAILS):
                self._gaps.tails(header, self._ours(decode_body(Tails, body).last))
                return
        except RemoteMessageError:
            self._malformed += 1
            return
        if topic is _UNWANTED:
            return
        self._gaps.saw(topic, header)
        self.received += 1
        self._keep(topic, header, body)
        if not self._arrived.is_set():
            self._arrived.set()

    def _keep(self, topic: str, header: Header, body: bytes) -> None:
        if self.policy is Policy.LATEST:
            self.dropped += topic in self._latest
            self._latest[topic] = (topic, header, body)
            return
        if len(self._queue) >= self.limit:
            self.dropped += 1
            self._queue.popleft()
            self._overrun = self.policy is Policy.ALL
        self._queue.append((topic, header, body))

    def _learn(self, frame: bytes) -> str:
        """Return the topic in *frame*, and remember it: libzmq matches bytes, people mean whole segments."""
        topic = decode_topic(frame)
        if topic != _TAILS and not self._wants(topic):
            topic = _UNWANTED
        if len(self._topics) < MAX_TOPICS:
            self._topics[frame] = topic
        return topic

    def _wants(self, topic: str) -> bool:
        return any(topic_matches(wanted, topic) for wanted in self.topics)

    def _ours(self, last: dict[str, int]) -> dict[str, int]:
        return {topic: seq for topic, seq in last.items() if self._wants(topic)}


def raw(runtime: Path, *topics: str, limit: int = 10_000, high_water: int = 10_000) -> Subscription[Message]:
    """Return a subscription whose events are `Message`s, bodies undecoded, for those that pass events on."""
    return Subscription(runtime, topics, decode=None, policy=Policy.DROP_OLDEST, limit=limit, high_water=high_water)
