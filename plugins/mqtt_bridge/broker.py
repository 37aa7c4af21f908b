"""The connection to an MQTT broker, by aiomqtt; the one file that knows it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sparkd import DeviceError

from .config import MqttBridgeConfig

ANSWER_LIMIT_S = 10.0
KEEPALIVE_S = 30
REMEDY = "look at the broker, at host, port, username and password"


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that came."""

    topic: str
    payload: bytes
    retained: bool


class Broker:
    """An open connection."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def publish(self, topic: str, payload: str, *, retain: bool) -> None:
        """Publish, and return when the broker has it. Raises DeviceError if the connection is lost."""
        with _told():
            await self._client.publish(topic, payload, qos=1, retain=retain)

    async def subscribe(self, topic: str) -> None:
        """Subscribe. Raises DeviceError."""
        with _told():
            await self._client.subscribe(topic, qos=1)

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes, until the connection is lost, which is a DeviceError."""
        with _told():
            async for message in self._client.messages:
                content = message.payload if isinstance(message.payload, bytes | bytearray) else b""
                yield Incoming(str(message.topic), bytes(content), bool(message.retain))


class _told:  # noqa: N801 - used as a word: with _told()
    """Tells the library's errors as DeviceError."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from aiomqtt import MqttError  # noqa: PLC0415 - only where there is a broker

        if isinstance(error, MqttError):
            raise DeviceError(f"the broker is gone: {error}", remedy=REMEDY) from None


@asynccontextmanager
async def connected(config: MqttBridgeConfig, *, ident: str, will_topic: str, will: str) -> AsyncIterator[Broker]:
    """Connect; the broker says *will* for us if we are lost. Raises DeviceError."""
    try:
        from aiomqtt import Client, MqttError, Will  # noqa: PLC0415 - only where there is a broker
    except ImportError:
        raise DeviceError("aiomqtt is not installed", remedy="pip install 'sparkd[mqtt]'") from None
    password = config.login.password
    context = ssl.create_default_context(cafile=config.ca) if config.tls else None
    client = Client(
        config.host,
        config.port,
        username=config.login.username or None,
        password=None if password is None else password.reveal(),
        identifier=ident,
        tls_context=context,
        will=Will(will_topic, will, qos=1, retain=True),
        timeout=ANSWER_LIMIT_S,
        keepalive=KEEPALIVE_S,
    )
    try:
        async with client:
            yield Broker(client)
    except MqttError as error:
        where = f"{config.host}:{config.port}"
        raise DeviceError(f"no connection with the broker at {where}: {error}", remedy=REMEDY) from None
