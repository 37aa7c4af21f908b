"""The service: events out, commands in, as long as there is a broker; and again when there is one again.

It is a live view: what happens while the broker is away is not told later, only how things are then. What must not be
lost goes by cloud-uplink, and what people must hear by notify.
"""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskStatus
from prometheus_client import Counter

from sparkd import CallError, Context, DeviceError, Policy, Privacy, Received

from .broker import Broker, connected
from .commands import Commands, RefusedError
from .config import MqttBridgeConfig
from .discovery import OFFLINE, ONLINE, TUNNEL, Topics, discovery_topic, payload

STEADY_S = 60.0
ASK_S = 5.0
LEAVE_S = 1.0


async def run(ctx: Context[MqttBridgeConfig], *, task_status: TaskStatus[None]) -> None:
    """Bridge until cancelled. A broker that is not there, or goes, is a state."""
    bridge, pause_s = Bridge(ctx), 0.0
    ctx.degraded("connecting", remedy="wait a moment")
    task_status.started()
    while True:
        begun = anyio.current_time()
        try:
            await bridge.serve()
        except* DeviceError as errors:
            error = _first(errors)
            ctx.degraded(str(error), remedy=error.remedy)
        steady = anyio.current_time() - begun > STEADY_S
        least, most = ctx.config.retry_least_s, ctx.config.retry_most_s
        pause_s = least if steady or not pause_s else min(pause_s * 2, most)
        await anyio.sleep(pause_s * random.uniform(0.8, 1.2))


def _first(errors: BaseExceptionGroup[DeviceError]) -> DeviceError:
    one = errors.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


class Bridge:
    """One node's bridge."""

    def __init__(self, ctx: Context[MqttBridgeConfig]) -> None:
        self._ctx = ctx
        self._config = ctx.config
        self._node_id = ctx.outbox.node_id
        self._topics = Topics(ctx.config.prefix, ctx.node)
        self._commands = Commands(ctx.config)
        self._peers: set[str] = set()
        registry = ctx.metrics
        self._published = Counter("sparkd_mqtt_published", "Events the broker has", registry=registry)
        self._withheld = Counter("sparkd_mqtt_withheld", "Events the broker may not have", registry=registry)
        self._taken = Counter("sparkd_mqtt_commands", "Commands, by outcome", ("outcome",), registry=registry)

    async def serve(self) -> None:
        """Connect, announce, and bridge until the connection is lost. Raises DeviceError."""
        opened = connected(
            self._config,
            ident=f"sparkd-{self._node_id[:16]}",
            will_topic=self._topics.availability,
            will=OFFLINE,
        )
        async with opened as broker:
            await broker.subscribe(self._topics.command("+"))
            if self._config.discovery:
                await broker.subscribe(f"{self._config.discovery}/status")
            async with anyio.create_task_group() as tasks:
                for topic in self._heard():
                    await tasks.start(self._forward, broker, topic)
                await self._show_all(broker)
                await broker.publish(self._topics.availability, ONLINE, retain=True)
                self._ctx.recovered()
                try:
                    await self._obey(broker)
                finally:
                    tasks.cancel_scope.cancel()
                    await self._take_leave(broker)

    async def _take_leave(self, broker: Broker) -> None:
        """Say ourselves that the node is gone: a broker keeps the last will to itself after an orderly good-bye."""
        with anyio.move_on_after(LEAVE_S, shield=True), suppress(DeviceError):
            await broker.publish(self._topics.availability, OFFLINE, retain=True)

    def _heard(self) -> list[str]:
        named = {*self._config.publish, *(f"system.health.service.{name}" for name in self._config.switches)}
        return sorted(one for one in named if not any(one.startswith(f"{other}.") for other in named))

    async def _announce(self, broker: Broker) -> None:
        if self._config.discovery:
            said = payload(
                self._config, self._topics, node_id=self._node_id, site=self._ctx.site, peers=sorted(self._peers)
            )
            await broker.publish(discovery_topic(self._config, self._node_id), json.dumps(said), retain=True)

    async def _show_all(self, broker: Broker) -> None:
        """Announce the node and publish how everything is now."""
        values: list[dict[str, Any]] = []
        for topic in self._heard():
            try:
                values += await self._ctx.request("bus.last", {"topic": topic}, deadline_s=ASK_S)
            except CallError as error:
                self._ctx.log.warning("last values not had", topic=topic, why=str(error))
        own = [one for one in values if one["node"] == self._ctx.node]
        self._peers |= {_peer(one["topic"]) for one in own} - {""}
        await self._announce(broker)
        for one in own:
            await self._show(broker, one["topic"], one["event"], Privacy.parse(one["privacy"]))

    async def _forward(self, broker: Broker, topic: str, *, task_status: TaskStatus[None]) -> None:
        async with self._ctx.bus.subscribe_topic(topic, policy=Policy.LATEST) as events:
            task_status.started()
            async for received in events:
                await self._on_event(broker, received)

    async def _on_event(self, broker: Broker, received: Received[Any]) -> None:
        if received.header.node != self._ctx.node:
            return
        peer = _peer(received.topic)
        if peer and peer not in self._peers:
            self._peers.add(peer)
            await self._announce(broker)
        await self._show(broker, received.topic, received.event, received.header.privacy)

    async def _show(self, broker: Broker, topic: str, event: Any, privacy: Privacy) -> None:
        if privacy is Privacy.NODE or (privacy is Privacy.LOCAL and self._config.reach != "local"):
            self._withheld.inc()
            return
        try:
            text = json.dumps(event, allow_nan=False, default=_plain)
        except (TypeError, ValueError) as error:
            self._ctx.log.debug("event has no JSON", topic=topic, why=str(error))
            return
        await broker.publish(self._topics.event(topic), text, retain=True)
        self._published.inc()

    async def _obey(self, broker: Broker) -> None:
        base = self._topics.command("")
        async for message in broker.messages():
            if message.topic == f"{self._config.discovery}/status":
                if message.payload == ONLINE.encode():  # Home Assistant has started, and forgotten nothing but us
                    await self._show_all(broker)
            elif message.topic.startswith(base):
                name = message.topic.removeprefix(base)
                said = await self._do(name, message.payload, retained=message.retained)
                await broker.publish(f"{self._topics.command(name)}/result", json.dumps(said), retain=False)

    async def _do(self, name: str, content: bytes, *, retained: bool) -> dict[str, Any]:
        try:
            call = self._commands.call(name, content, retained=retained, now=anyio.current_time())
        except RefusedError as error:
            self._taken.labels("refused").inc()
            self._ctx.log.warning("command refused", command=name[:80], why=str(error))
            return {"ok": False, "error": str(error)}
        try:
            await self._ctx.request(call.method, call.params, deadline_s=call.deadline_s)
        except CallError as error:
            self._taken.labels("failed").inc()
            return {"ok": False, "error": str(error)}
        self._taken.labels("done").inc()
        self._ctx.log.info("command done", command=name, method=call.method)
        return {"ok": True}


def _peer(topic: str) -> str:
    """Return the peer that an event of a tunnel is about; nothing for other events."""
    return topic.removeprefix(f"{TUNNEL}.") if topic.startswith(f"{TUNNEL}.") else ""


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON")
