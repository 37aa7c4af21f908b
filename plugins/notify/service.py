"""The service: events to notifications, notifications to the outbox, from there by each channel at its own pace."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from sparkd import (
    CallError,
    CallErrorKind,
    ChannelStatus,
    Context,
    Notify,
    NotifyStatus,
    OutboxReader,
    OutboxWriter,
    Priority,
    Privacy,
    Record,
    RemoteMessageError,
    Stored,
    Troubles,
    current_call,
    decode_body,
    encode_body,
)

from .config import NotifyConfig, default_rules
from .delivery import DeliveryError, deliver
from .rules import Counts, Notification, Rule, Said
from .templates import MAX_CHARS

SERVICE, STREAM, TOPIC = "notify", "told", "notify.told"
BATCH, BATCH_BYTES = 50, 1 << 20
REFUSALS = 3
"""So often a server must refuse for good before a notification becomes a dead letter."""
NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A notification on disk."""

    title: str
    message: str
    priority: Priority
    channels: tuple[str, ...]
    topic: str
    repeated: int
    privacy: int
    at_ns: int


async def run(ctx: Context[NotifyConfig], *, task_status: TaskStatus[None]) -> None:
    """Tell people until cancelled. What cannot be told now is kept; what was kept when it ended is told then."""
    async with ctx.outbox.writer(STREAM) as writer:
        teller = Teller(ctx, writer)
        await ctx.serve(Notify, teller)
        async with anyio.create_task_group() as tasks:
            for name in ctx.config.channels():
                await tasks.start(teller.keep_telling, name)
            for topic in teller.topics():
                await tasks.start(teller.listen, topic)
            if not ctx.config.channels():
                ctx.degraded("no channel is configured", remedy="add a table [plugins.notify.ntfy.NAME] or another")
            task_status.started()


class Teller:
    """Decides what is told, keeps it, and hands it out."""

    def __init__(self, ctx: Context[NotifyConfig], writer: OutboxWriter) -> None:
        self._ctx = ctx
        self._writer = writer
        self._counts = Counts()
        rules = ctx.config.rules or default_rules()
        self._rules = [Rule(config, self._counts) for config in rules.values()]
        self._channels = {
            name: ChannelStatus(name=name, kind=kind, state="idle") for name, (kind, _) in ctx.config.channels().items()
        }
        self._troubles = Troubles(ctx)
        self._noted = self._withheld = 0

    def topics(self) -> list[str]:
        """Return the topics to listen to, those beneath another left out."""
        named = {topic for rule in self._rules for topic in rule.config.topics}
        return sorted(one for one in named if not any(one.startswith(f"{other}.") for other in named))

    async def listen(self, topic: str, *, task_status: TaskStatus[None]) -> None:
        """Hear events at or beneath *topic* for ever."""
        async with self._ctx.bus.subscribe_topic(topic) as events:
            task_status.started()
            async for received in events:
                if isinstance(received.event, dict):
                    header = received.header
                    said = Said(topic=received.topic, node=header.node, service=header.service, event=received.event)
                    for rule in self._rules:
                        told = rule.hear(said, anyio.current_time())
                        if told is not None:
                            await self._note(told, header.privacy)

    async def _note(self, told: Notification, privacy: Privacy) -> int:
        """Keep *told* on disk for the channels that may have it; return its number, 0 if none may."""
        wanted = told.channels or tuple(self._channels)
        may = tuple(name for name in wanted if self._may(name, privacy))
        if not may:
            self._withheld += 1
            if wanted and privacy is Privacy.LOCAL:
                reason = "what is of the privacy class local is told by no channel"
                self._troubles.say("privacy", reason, 'set reach = "local" on a channel that you trust with it')
            return 0
        kept = Kept(**{**asdict(told), "channels": may}, privacy=int(privacy), at_ns=time.time_ns())
        # Of class `node`: the copy on disk goes by no uplink; what leaves is what a channel may have.
        record = Record(topic=TOPIC, body=encode_body(kept), privacy=Privacy.NODE)
        (seq,) = await self._writer.append([record])
        self._noted += 1
        return seq

    def _may(self, channel: str, privacy: Privacy) -> bool:
        known = self._ctx.config.channels().get(channel)
        if known is None or privacy is Privacy.NODE:
            return False
        return privacy is Privacy.SHARED or known[1].reach == "local"

    async def keep_telling(self, name: str, *, task_status: TaskStatus[None]) -> None:
        """Hand out what is for the channel *name*, in order, for ever."""
        async with self._ctx.outbox.reader(SERVICE, STREAM, name=name) as reader:
            task_status.started()
            while True:
                for stored in await reader.read(max_records=BATCH, max_bytes=BATCH_BYTES):
                    await self._hand_out(name, reader, stored)
                    await reader.advance(stored.seq)
                self._state(name, "idle")
                await reader.wait()

    async def _hand_out(self, name: str, reader: OutboxReader, stored: Stored) -> None:
        try:
            kept: Kept = decode_body(Kept, stored.record.body)
        except RemoteMessageError as error:
            await reader.reject(stored, str(error))
            return
        if name not in kept.channels:
            return
        told = Notification(
            title=kept.title,
            message=kept.message,
            priority=kept.priority,
            channels=kept.channels,
            topic=kept.topic,
            repeated=kept.repeated,
        )
        pause_s, refusals = self._ctx.config.retry_least_s, 0
        while True:
            if time.time_ns() - kept.at_ns > self._ctx.config.keep_s * NS:
                self._count(name, expired=1)
                return
            self._state(name, "sending")
            try:
                await self._try(name, told, stored.seq)
            except DeliveryError as error:
                refusals += error.final
                if refusals >= REFUSALS:
                    await reader.reject(stored, str(error))
                    self._count(name, refused=1)
                    return
                self._wait(name, str(error))
                await anyio.sleep(pause_s * random.uniform(0.8, 1.2) if error.after_s is None else error.after_s)
                pause_s = min(pause_s * 2, self._ctx.config.retry_most_s)
            else:
                self._count(name, delivered=1)
                self._troubles.over(name)
                return

    async def _try(self, name: str, told: Notification, seq: int) -> None:
        kind, config = self._ctx.config.channels()[name]
        ident = f"{self._ctx.outbox.node_id}-{self._writer.stream_id.epoch:x}-{seq}"

        def hand() -> None:
            deliver(kind, config, told, ident=ident, limit_s=self._ctx.config.answer_limit_s)

        await anyio.to_thread.run_sync(hand, abandon_on_cancel=True)

    def _wait(self, name: str, why: str) -> None:
        self._state(name, "waiting", why)
        self._troubles.say(name, f"channel {name}: {why}", "look at its server, its secret and the network")

    def _state(self, name: str, state: Any, reason: str = "") -> None:
        one = self._channels[name]
        self._channels[name] = ChannelStatus(**{**asdict(one), "state": state, "reason": reason})

    def _count(self, name: str, **more: int) -> None:
        one = asdict(self._channels[name])
        self._channels[name] = ChannelStatus(**{**one, **{key: one[key] + count for key, count in more.items()}})

    # `notify`

    async def send(
        self, *, message: str, title: str = "", priority: Priority = "default", channels: list[str] | None = None
    ) -> int:
        """Tell *message*."""
        for name in channels or ():
            if name not in self._channels:
                known = ", ".join(self._channels) or "none"
                text = f"no channel is called {name!r}; there are {known}"
                raise CallError(CallErrorKind.INVALID_PARAMS, text, field="channels")
        if len(message) > MAX_CHARS or len(title) > MAX_CHARS:
            text = f"a text of more than {MAX_CHARS} characters"
            raise CallError(CallErrorKind.INVALID_PARAMS, text, field="message")
        told = Notification(title=title, message=message, priority=priority, channels=tuple(channels or ()))
        seq = await self._note(told, current_call().privacy)
        if not seq:
            rule = "no channel may have what is of this privacy class"
            raise CallError(CallErrorKind.DENIED, "the message is not told", rule=rule)
        return seq

    async def status(self) -> NotifyStatus:
        """Return how the channels are."""
        return NotifyStatus(
            channels=list(self._channels.values()),
            noted=self._noted,
            repeated=self._counts.repeated,
            limited=self._counts.limited,
            withheld=self._withheld,
        )
