"""The receiving side of a bus client: one socket a subscription, drained into a bounded queue."""

from __future__ import annotations

import asyncio  # noqa: TID251 - the event loop is handled here: an anyio.Event a wake-up costs a tenth of the latency
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
from sparkd.bus.sharing import copied, is_shared, mapped
from sparkd.bus.sockets import BATCH, NOBLOCK, Drained, context
from sparkd.codec import Buffer, Header, Message, decode_body, decode_header, decode_topic
from sparkd.errors import LocalMessageError, RemoteMessageError
from sparkd.events import Tails, event_type, topic_matches
from sparkd.reference import MARKS
from sparkd.service import Policy, Received
from sparkd.shm import GoneError, SharedReader

E = TypeVar("E")

CONNECT_LIMIT_S = 5.0
ASK_AGAIN_S = 1.0
_TAILS = event_type(Tails).topic
_UNWANTED = "?"
"""Stands for a topic that only begins like one of ours; no topic looks like it."""
MAX_TOPICS = 10_000
MAX_HELD_BYTES = 32 << 20
"""Bodies that wait to be read, whatever the limit in events: a thousand events may be a gigabyte."""

_Held: TypeAlias = tuple[str, Header, bytes]


class _Socket(Drained):
    """A SUB socket read by three receives a message, as zmq frames.

    They know whether more belongs to the message. Asking the socket for RCVMORE, as `recv_multipart` does, costs more
    than everything else here together. The body needs no frame: what should follow it is malformed and found next.
    """

    def __init__(self, socket: zmq.Socket[bytes], take: Callable[[bytes, bytes, bytes], bool]) -> None:
        """Hand the three frames of each message to *take*, which says whether a reader waits for its turn."""
        super().__init__(socket, lambda _frames: None)
        self._take = take
        self._in_flow = False
        """Whether the reader had its turn since the socket was last empty. The first event goes to it at once, for to
        find that there is no second takes time; those after it come in batches."""
        self.malformed = 0

    def _read_batch(self) -> bool:
        receive, take = self.socket.recv, self._take
        try:
            for _ in range(BATCH):
                topic = receive(NOBLOCK, False)  # noqa: FBT003 - `copy=`; by name it costs a tenth more
                if topic.more:
                    header = receive(NOBLOCK, False)  # noqa: FBT003 - as above
                    if header.more:
                        if take(topic.bytes, header.bytes, receive(NOBLOCK)) and not self._in_flow:
                            self._in_flow = True
                            return False
                        continue
                self.malformed += 1
        except zmq.ZMQError:  # Again: it is empty; or else it was closed by `finish`, and nothing comes any more
            self._in_flow = False
            return True
        return False


class Subscription(Generic[E]):
    """An open subscription; see `sparkd.service.Subscription` for what it promises."""

    def __init__(
        self,
        runtime: Path,
        topics: tuple[str, ...],
        *,
        decode: Callable[[Buffer], E] | None,
        policy: Policy,
        limit: int,
        high_water: int,
        reader: SharedReader,
    ) -> None:
        """Subscribe to *topics* and beneath; *decode* makes an event of a body, None hands out `Message`.

        *reader* reads the bodies that went through shared memory.
        """
        if limit < 1:
            raise LocalMessageError(f"{' '.join(topics)}: a queue of {limit} events; 1 at the least")
        self.topics, self.policy, self.limit = topics, policy, limit
        self._address = f"ipc://{runtime / SUB}"
        self._decode = decode
        self._high_water = high_water
        self._reader = reader
        self._late = 0
        self._queue: deque[_Held] = deque()
        self._latest: dict[str, _Held] = {}
        self._topics: dict[bytes, str] = {}
        self._waiting: asyncio.Future[None] | None = None
        self._run = 0
        self._held_bytes = 0
        self._in_force = anyio.Event()
        self._probe = PROBE + os.urandom(8).hex().encode()
        self._gaps = GapCounter()
        self._tails_wanted = self._wants(_TAILS)
        self._malformed = 0
        self._overrun = False
        self.received = self.dropped = 0

    @property
    def lost(self) -> int:
        """How many events of these topics were sent and never came, or whose body was gone when they were read."""
        return self._gaps.lost + self._late

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
        self._socket = _Socket(socket, self._take)
        self._socket.__enter__()
        try:
            socket.connect(self._address)
            await self._until_in_force(socket)
        except BaseException:
            self._socket.close()
            raise
        return self

    async def _until_in_force(self, socket: zmq.Socket[bytes]) -> None:
        """Return once the broker has the subscriptions: it answers the last of them, to the probe topic.

        That is made after `connect`, which sends those before in an order of its own. The answer is an event like
        others, and lost where a flood fills the queues: so it is asked for again.
        """
        with anyio.move_on_after(CONNECT_LIMIT_S):
            while not self._in_force.is_set():
                socket.setsockopt(zmq.SUBSCRIBE, self._probe)
                self._socket.look_again()
                with anyio.move_on_after(ASK_AGAIN_S):
                    await self._in_force.wait()
                socket.setsockopt(zmq.UNSUBSCRIBE, self._probe)
        if not self._in_force.is_set():
            raise OSError(f"{self._address}: no broker answers within {CONNECT_LIMIT_S:g} s")
        self._socket.look_again()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received[E]:
        """Return the next event. Raises BufferError under the policy `all` if the reader was too slow for its bound."""
        while True:
            if self._queue:
                topic, header, body = self._queue.popleft()
                self._held_bytes -= len(body)
            elif self._latest:
                topic, header, body = self._latest.pop(next(iter(self._latest)))
                self._held_bytes -= len(body)
            else:
                await self._wait()
                continue
            self._run += 1
            if self._run >= BATCH:  # a reader that always finds something would never let others have a turn
                self._run = 0
                await anyio.lowlevel.checkpoint()
            try:
                if body[:1] in MARKS and is_shared(body):
                    event: Any = self._shared(topic, header, body)
                else:
                    event = Message(topic, header, body) if self._decode is None else self._decode(body)
            except GoneError:
                self._late += 1
                continue
            except RemoteMessageError:
                self._malformed += 1
                continue
            return Received(topic, header, event)

    def _shared(self, topic: str, header: Header, body: bytes) -> Any:
        if self._decode is None:
            return Message(topic, header, copied(self._reader, body))
        return self._decode(mapped(self._reader, body))

    async def _wait(self) -> None:
        """Return when there is an event to read."""
        if self._overrun:
            self._overrun = False
            raise BufferError(f"{' '.join(self.topics)}: more than {self.limit} events waited to be read")
        self._run = 0
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _take(self, topic_frame: bytes, header_frame: bytes, body: bytes) -> bool:
        """Count and keep an event at once, so that what is dropped here is never taken for lost on the way.

        Return whether it woke the reader.
        """
        try:
            topic = self._topics.get(topic_frame) or self._learn(topic_frame)
            if topic is _UNWANTED:
                return False
            header = decode_header(header_frame)
            if topic == _TAILS:
                self._gaps.tails(header, self._ours(decode_body(Tails, body).last))
                if not self._tails_wanted:
                    return False
        except RemoteMessageError:
            self._malformed += 1
            return False
        self._gaps.saw(topic, header)
        self.received += 1
        self._keep((topic, header, body))
        waiting = self._waiting
        if waiting is None or waiting.done():
            return False
        waiting.set_result(None)
        return True

    def _keep(self, event: _Held) -> None:
        if self.policy is Policy.LATEST:
            self._keep_latest(event)
        elif len(self._queue) < self.limit and self._held_bytes < MAX_HELD_BYTES and not self._overrun:
            self._queue.append(event)
            self._held_bytes += len(event[2])
        elif self.policy is Policy.ALL:
            self.dropped += 1
            self._overrun = True  # what waits is unbroken; the reader is told where it ends
        else:
            self._queue.append(event)
            self._held_bytes += len(event[2])
            while len(self._queue) > self.limit or self._held_bytes > MAX_HELD_BYTES:
                self.dropped += 1
                self._held_bytes -= len(self._queue.popleft()[2])

    def _keep_latest(self, event: _Held) -> None:
        topic, kept = event[0], self._latest
        if topic in kept:
            self._drop_latest(topic)
        kept[topic] = event
        self._held_bytes += len(event[2])
        while len(kept) > self.limit or self._held_bytes > MAX_HELD_BYTES:
            self._drop_latest(next(iter(kept)))

    def _drop_latest(self, topic: str) -> None:
        self.dropped += 1
        self._held_bytes -= len(self._latest.pop(topic)[2])

    def _learn(self, frame: bytes) -> str:
        """Return the topic in *frame*, and remember it: libzmq matches bytes, people mean whole segments."""
        if frame == self._probe:
            self._in_force.set()
            return _UNWANTED
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


def raw(runtime: Path, *topics: str, limit: int, high_water: int, reader: SharedReader) -> Subscription[Message]:
    """Return a subscription whose events are `Message`s, bodies undecoded, for those that pass events on.

    A body that is longer than an event may be is a reference (`sparkd.reference`).
    """
    return Subscription(
        runtime,
        topics,
        decode=None,
        policy=Policy.DROP_OLDEST,
        limit=limit,
        high_water=high_water,
        reader=reader,
    )
