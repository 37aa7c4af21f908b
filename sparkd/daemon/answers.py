"""What the core answers: the handlers of its own interfaces (`sparkd.core_interfaces`)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread

from sparkd.arrays import shown
from sparkd.blocked import Blocks
from sparkd.calls import current_call
from sparkd.codec import Message, encode_header, unpack
from sparkd.config import nearest
from sparkd.core_interfaces import (
    BusEvent,
    DeadLetter,
    NodeStatus,
    OutboxStatus,
    PluginStatus,
    RollBack,
    ServiceStatus,
)
from sparkd.daemon import toggles
from sparkd.daemon.version import VERSION
from sparkd.errors import CallError, CallErrorKind, ConfigError, RemoteMessageError, StorageError
from sparkd.log import printable
from sparkd.outbox import dead_letters, drop_dead, forget_reader, inspect, retry_dead
from sparkd.reference import decode_reference, is_reference
from sparkd.supervisor import Supervised
from sparkd.supervisor.supervised import Wanted

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

T = TypeVar("T")

SETTLE_LIMIT_S = 5.0
MAX_PATH_CHARS = 1000


class NodeAnswers:
    """`node`: the node as a whole."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def status(self) -> NodeStatus:
        """Return what runs, what does not, why, and what to do about it."""
        return await self._core.status()

    async def version(self) -> str:
        """Return the version."""
        return VERSION

    async def health(self) -> bool:
        """Return whether every service that is wanted runs."""
        return self._core.is_well()


class PluginsAnswers:
    """`plugins`: plugins and their services."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._toggling = anyio.Lock()

    async def status(self) -> list[PluginStatus]:
        """List every plugin."""
        return self._core.plugins.status()

    async def start(self, *, name: str) -> ServiceStatus:
        """Start a service."""
        service = self._service(name)
        service.want(Wanted.RUN)
        return await self._settled(service)

    async def stop(self, *, name: str) -> ServiceStatus:
        """Stop a service."""
        service = self._service(name)
        service.want(Wanted.STOP)
        return await self._settled(service)

    async def restart(self, *, name: str) -> ServiceStatus:
        """Stop and start a service."""
        service = self._service(name)
        await service.restart()
        return await self._settled(service)

    async def rescan(self) -> dict[str, list[str]]:
        """Look at the drop-in folders now."""
        return await self._core.sync()

    async def enable(self, *, name: str) -> PluginStatus:
        """Let a plugin run, now and after a restart."""
        return await self._toggle(name, enabled=True)

    async def disable(self, *, name: str) -> PluginStatus:
        """Stop a plugin, now and after a restart."""
        return await self._toggle(name, enabled=False)

    async def _toggle(self, name: str, *, enabled: bool) -> PluginStatus:
        async with self._toggling:  # the file is read, changed and written: two at once would lose one switch
            return await self._switch(name, enabled=enabled)

    async def _switch(self, name: str, *, enabled: bool) -> PluginStatus:
        core = self._core
        if core.plugins.synced and name not in core.plugins.names:
            message = f"there is no plugin {name!r}; {nearest(name, core.plugins.names)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="name")
        try:
            await to_thread.run_sync(toggles.write, core.places.config, name, enabled)
            await core.reload()
        except ConfigError as error:
            raise CallError(CallErrorKind.UNAVAILABLE, str(error), remedy="mend the config, then try again") from None
        except OSError as error:
            message = f"cannot write {error.filename}: {error.strerror}"
            remedy = f"write enabled = {str(enabled).lower()} under [plugins.{name}] yourself"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy=remedy) from None
        found = {plugin.name: plugin for plugin in core.plugins.status()}
        if name not in found:
            message = f"the switch is written, and there is no plugin {name!r} now"
            raise CallError(CallErrorKind.UNAVAILABLE, message, remedy="install it, or drop it in")
        return found[name]

    def _service(self, name: str) -> Supervised:
        services = self._core.supervisor.services
        if name not in services:
            message = f"there is no service {name!r}; {nearest(name, services)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="name")
        return services[name]

    async def _settled(self, service: Supervised) -> ServiceStatus:
        """Return the status once the service is no longer on its way, or after a while."""
        with anyio.move_on_after(SETTLE_LIMIT_S):
            await self._core.settled(service)
        return await self._core.service_status(service)


class BusAnswers:
    """`bus`: the event bus."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def stats(self) -> dict[str, Any]:
        """Return counters of the broker and of each service."""
        core = self._core
        services = {"core": core.bus.stats(), **await core.ask_hosts(lambda host: host.stats())}
        broker = {
            "subscriptions": dict(core.broker.subscriptions),
            "refused": core.broker.peers.refused,
            "cut_off": core.queues.cut_off,
            "held_bytes": core.queues.held_bytes,
        }
        return {"broker": broker, "services": services}

    async def last(self, *, topic: str = "") -> list[BusEvent]:
        """Return the last values of state topics."""
        return [event for message in self._core.retained.at(topic) if (event := _bus_event(message, retained=True))]

    async def subscribe(self, *, topics: list[str]) -> AsyncIterator[BusEvent]:
        """Stream events: first the last values, then what comes."""
        async with self._core.bus.subscribe_messages(*(topics or [""])) as subscription:
            for topic in topics or [""]:
                for event in await self.last(topic=topic):
                    yield event
            async for received in subscription:
                news = _bus_event(received.event, retained=False)
                if news is not None:
                    yield news


def _plain(message: Message) -> Any:
    """Return the body for people: long runs of bytes, and what went by shared memory, by their length only."""
    if not is_reference(message.body):
        return shown(message.plain())
    reference = decode_reference(message.body)
    return unpack(reference.about) if reference.about else f"({reference.length} bytes, not shown)"


def _bus_event(message: Message, *, retained: bool) -> BusEvent | None:
    header = message.header
    try:
        content = _plain(message)
    except RemoteMessageError:  # counted by the subscription that let it in
        return None
    return BusEvent(
        topic=message.topic,
        node=header.node,
        service=header.service,
        seq=header.seq,
        wall_ns=header.wall_ns,
        privacy=header.privacy.label,
        event=content,
        retained=retained,
    )


class OutboxAnswers:
    """`outbox`: durable streams."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def status(self) -> list[OutboxStatus]:
        """Return every stream."""
        return await self._on_disk(inspect)

    async def dead(self, *, service: str, stream: str) -> list[DeadLetter]:
        """List the dead letters of a stream."""
        return await self._on_disk(dead_letters, service, stream)

    async def drop(self, *, service: str, stream: str, seqs: list[int]) -> int:
        """Delete dead letters."""
        return await self._on_disk(drop_dead, service, stream, seqs)

    async def retry(self, *, service: str, stream: str, seqs: list[int]) -> int:
        """Have dead letters appended again."""
        return await self._on_disk(retry_dead, service, stream, seqs)

    async def forget(self, *, service: str, stream: str, reader: str) -> None:
        """Remove the cursor of a reader that is no more."""
        await self._on_disk(forget_reader, service, stream, reader)

    async def _on_disk(self, function: Callable[..., T], *arguments: object) -> T:
        try:
            return await to_thread.run_sync(function, self._root, *arguments)
        except StorageError as error:
            raise CallError(CallErrorKind.FAILED, str(error), error="StorageError") from None


class ConfigAnswers:
    """`config`: the configuration in force."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def show(self) -> dict[str, Any]:
        """Return the config, secrets hidden."""
        return self._core.show_config()

    async def schema(self, *, name: str) -> dict[str, Any]:
        """Return the schema of a service's config table."""
        manifests = {manifest.name: manifest for manifest in self._core.plugins.manifests}
        if name not in manifests:
            message = f"there is no service {name!r}; {nearest(name, manifests)}"
            raise CallError(CallErrorKind.INVALID_PARAMS, message, field="name")
        return manifests[name].config_schema

    async def changes(self) -> RollBack | None:
        """Return the change that was taken back, if one was."""
        return await self._core.last_good.told()

    async def accept(self) -> None:
        """Go by what is on disk."""
        try:
            await self._core.last_good.accept()
        except (ConfigError, OSError) as error:
            raise CallError(CallErrorKind.FAILED, str(error), error=type(error).__name__) from None

    async def reload(self) -> list[str]:
        """Read the config again and apply it."""
        try:
            return await self._core.reload()
        except ConfigError as error:
            remedy = "mend it and try again; the config in force is unchanged"
            raise CallError(CallErrorKind.FAILED, str(error), error="ConfigError", remedy=remedy) from None


class SupervisorAnswers:
    """`supervisor`: what hosts say. `hello` and `bind` are the router's own."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def hello(self, *, service: str, token: str) -> None:  # noqa: ARG002 - the interface's
        """Never reached: the router answers it."""
        raise CallError(CallErrorKind.UNKNOWN_METHOD, f"hello of {service!r} is answered by the router")

    async def bind(self, *, interfaces: list[str]) -> None:
        """Never reached: the router answers it."""
        raise CallError(CallErrorKind.UNKNOWN_METHOD, f"bind of {interfaces!r} is answered by the router")

    async def ready(self) -> None:
        """Take note that the calling service has started."""
        self._core.entrance.is_ready(current_call().caller)

    async def degraded(self, *, reason: str, remedy: str = "") -> None:
        """Take note that it runs with less than it wants."""
        self._with_service(lambda service: service.degrade(reason, remedy))

    async def recovered(self) -> None:
        """Take note that it has all it wants."""
        self._with_service(lambda service: service.recover())

    async def blocked(
        self, *, count: int, seconds: float, longest_s: float, last_s: float, file: str, line: int
    ) -> None:
        """Take note that its loop was blocked."""
        file = printable(file[:MAX_PATH_CHARS])
        more = Blocks(count=count, seconds=seconds, longest_s=longest_s, last_s=last_s, file=file, line=line)
        self._with_service(lambda service: self._core.blocks.add(service.name, more))

    async def retained(self, *, topic: str) -> list[list[bytes]]:
        """Return the frames of the last values."""
        return [[m.topic.encode(), encode_header(m.header), m.body] for m in self._core.retained.at(topic)]

    def _with_service(self, deed: Callable[[Supervised], None]) -> None:
        service = self._core.supervisor.services.get(current_call().caller)
        if service is not None:
            deed(service)


def uptime_s(started: float) -> float:
    """Return the seconds since *started* on the monotonic clock."""
    return time.monotonic() - started
