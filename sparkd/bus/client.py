"""The bus as a service sees it: rights checked, durable events stored first, losses counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio.lowlevel

from sparkd.bus.flood import Allowance, BusLimits
from sparkd.bus.publisher import Publisher
from sparkd.bus.sharing import Sharing, check_kept, encode
from sparkd.bus.subscription import Subscription, raw
from sparkd.codec import Buffer, Message, body_decoder, topic_of, unpack
from sparkd.errors import LocalMessageError, RemoteMessageError
from sparkd.events import TOPIC, Durability, event_type, topic_matches
from sparkd.privacy import Privacy
from sparkd.service import Policy, Received, Record

E = TypeVar("E")

Store = Callable[[Record], Awaitable[int]]
"""Puts a record into the outbox and returns its sequence number once it is on disk."""
FetchRetained = Callable[[str], Awaitable[Sequence[Message]]]
MAX_GRANTED = 10_000
"""Topics remembered as this service's to publish."""


class BusClient:
    """Implements `sparkd.service.Bus`. Use `open`."""

    def __init__(
        self,
        runtime: Path,
        *,
        node: str,
        service: str,
        publishes: Sequence[str] | None = None,
        reads: Sequence[str] | None = None,
        store: Store | None = None,
        fetch_retained: FetchRetained | None = None,
        current_trace: Callable[[], bytes | None] = lambda: None,
        limits: BusLimits | None = None,
        sharing: Sharing | None = None,
        on_flood: Callable[[str, int], None] = lambda _topic, _flooded: None,
    ) -> None:
        """Speak as *service*; None for *publishes* or *reads* means any topic (the core's own client).

        *on_flood* hears of each event that was dropped for being too much: its topic, and how many there were so far.
        """
        self._runtime = runtime
        self._service = service
        self._publishes = None if publishes is None else tuple(publishes)
        self._reads = None if reads is None else tuple(reads)
        self._store = store
        self._fetch_retained = fetch_retained
        self._current_trace = current_trace
        limits = limits or BusLimits()
        self._high_water = limits.high_water
        self._allowance = Allowance(limits.flood_messages_per_s, limits.flood_bytes_per_s)
        self._on_flood = on_flood
        self.flooded = 0
        """Events dropped because the service sent more than its bounds allow."""
        self._publisher = Publisher(runtime, node=node, service=service, high_water=limits.high_water)
        self._sharing = sharing or Sharing(runtime, service=service, max_total_bytes=limits.shm_max_bytes)
        self._granted: set[str] = set()
        self._subscriptions: list[Subscription[Any]] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BusClient]:
        """Connect to the broker. Raises OSError if there is none."""
        try:
            async with self._publisher.open(on_tick=self._sharing.trim):
                yield self
        finally:
            self._sharing.close()

    async def publish(
        self,
        event: object,
        *,
        topic: str | None = None,
        privacy: Privacy | None = None,
        trace: bytes | None = None,
        key: str | None = None,
    ) -> None:
        """Send *event*; see `sparkd.service.Bus.publish`."""
        declared = event_type(type(event))
        goes_to = topic_of(type(event), topic)
        if goes_to not in self._granted:
            self._check(self._publishes, goes_to, "publish")
            if len(self._granted) < MAX_GRANTED:
                self._granted.add(goes_to)
        body = encode(event)
        privacy = declared.privacy if privacy is None else privacy
        trace = trace or self._current_trace()
        size = len(body)  # of pieces their number: what goes through shared memory has a bound there
        if declared.durability is not Durability.TRANSIENT:
            whole = check_kept(goes_to, declared.durability.value, body)
            await self._allowance.wait(size)  # what is kept is never dropped: it waits instead
            if declared.durability is Durability.DURABLE:
                await self._keep(Record(topic=goes_to, body=whole, privacy=privacy, trace=trace, key=key))
        elif not self._allowance.take(size):
            await self._drop(goes_to)
            return
        frame = body if type(body) is bytes else self._sharing.wire(goes_to, event, body)
        if frame is None:
            self._publisher.skip(goes_to)
        else:
            self._publisher.send(goes_to, frame, privacy, trace)

    async def _keep(self, record: Record) -> None:
        if self._store is None:
            raise LocalMessageError(f"{record.topic} is durable, and this client has no outbox")
        await self._store(record)

    async def _drop(self, topic: str) -> None:
        """Count an event as sent and lost; let others run, for a flood seldom leaves them a turn."""
        self._publisher.skip(topic)
        self.flooded += 1
        self._on_flood(topic, self.flooded)
        await anyio.lowlevel.checkpoint()

    def publish_message(self, message: Message) -> None:
        """Send an event of another node as it came."""
        self._publisher.forward(message)

    @asynccontextmanager
    async def subscribe(
        self, what: type[E], *, topic: str | None = None, policy: Policy = Policy.DROP_OLDEST, limit: int = 1000
    ) -> AsyncIterator[Subscription[E]]:
        """Subscribe to events of class *what*. It is in force when the context is entered."""
        wanted = topic_of(what, topic)
        async with self._open(wanted, body_decoder(what), policy, limit) as subscription:
            yield subscription

    @asynccontextmanager
    async def subscribe_topic(
        self, topic: str, *, policy: Policy = Policy.DROP_OLDEST, limit: int = 1000
    ) -> AsyncIterator[Subscription[Any]]:
        """Subscribe to all events at or beneath *topic*, bodies as plain values; the empty topic is everything.

        Raises LocalMessageError for a malformed topic: it would never match.
        """
        if topic and not TOPIC.fullmatch(topic):
            raise LocalMessageError(f"malformed topic {topic!r}: dotted lower-case segments expected")
        async with self._open(topic, unpack, policy, limit) as subscription:
            yield subscription

    @asynccontextmanager
    async def subscribe_messages(self, *topics: str, limit: int = 10_000) -> AsyncIterator[Subscription[Message]]:
        """Subscribe to *topics*, bodies undecoded, for those that pass events on."""
        for topic in topics:
            self._check(self._reads, topic, "read")
        async with raw(
            self._runtime, *topics, limit=limit, high_water=self._high_water, reader=self._sharing.reader
        ) as subscription:
            self._subscriptions.append(subscription)
            try:
                yield subscription
            finally:
                self._subscriptions.remove(subscription)

    async def retained(self, what: type[E], *, topic: str | None = None) -> list[Received[E]]:
        """Return the last values that the core keeps; what is not of class *what* is left out."""
        wanted = topic_of(what, topic)
        self._check(self._reads, wanted, "read")
        messages = await self._fetch_retained(wanted) if self._fetch_retained else ()
        found = []
        for message in messages:
            try:
                found.append(Received(message.topic, message.header, message.decode(what)))
            except RemoteMessageError:
                continue
        return found

    def stats(self) -> dict[str, Any]:
        """Return counters of the publisher and of each open subscription."""
        return {
            "published": self._publisher.published,
            "published_bytes": self._publisher.published_bytes,
            "flooded": self.flooded,
            "unshared": self._sharing.unshared,
            "subscriptions": [subscription.stats() for subscription in self._subscriptions],
        }

    @asynccontextmanager
    async def _open(
        self, topic: str, decode: Callable[[Buffer], E], policy: Policy, limit: int
    ) -> AsyncIterator[Subscription[E]]:
        self._check(self._reads, topic, "read")
        opened = Subscription(
            self._runtime,
            (topic,),
            decode=decode,
            policy=policy,
            limit=limit,
            high_water=self._high_water,
            reader=self._sharing.reader,
        )
        async with opened as subscription:
            self._subscriptions.append(subscription)
            try:
                yield subscription
            finally:
                self._subscriptions.remove(subscription)

    def _check(self, allowed: tuple[str, ...] | None, topic: str, deed: str) -> None:
        if allowed is not None and not any(topic_matches(right, topic) for right in allowed):
            declared = ", ".join(allowed) or "none"
            raise LocalMessageError(f"service {self._service!r} may not {deed} {topic!r}; its manifest has: {declared}")
