"""The Wyoming door: this node as a Wyoming server, so that Home Assistant finds its ears and voice.

It offers the wake words that are listened for here, and the speech that this node can reach. Closed unless config opens
it, and then at the configured address only; announced by zeroconf on the network of that address.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from sparkd import CallError, DeviceError, Sound, Speech, Transcript, Troubles
from sparkd_plugins.wyoming_wire import info
from sparkd_plugins.wyoming_wire.server import Detector, Limits, Log, Server, serve_at

SERVICE_TYPE = "_wyoming._tcp.local."
"""What Home Assistant looks for."""
PIECE_BYTES = 32_000
ANNOUNCE_AGAIN_MIN_S, ANNOUNCE_AGAIN_MAX_S = 5.0, 300.0
"""Nothing tells when a network that refused a multicast has become one that takes it."""
DESCRIBE_S = 3.0
"""A client waits so long for what speech can do; without an answer the door describes the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorConfig:
    """The table `wyoming_door`."""

    enabled: bool = False
    """Whether other programs may use wake words and speech of this node. The protocol has no password."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 for all of this machine."""
    port: int = 10400
    """The port: that of Wyoming's wake word servers."""
    announce: bool = True
    """Whether the door is announced by zeroconf, so that Home Assistant finds it."""
    connections: int = 8
    """So many clients at once."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:  # noqa: PLR2004 - the highest port
            raise ValueError(f"port: 1 to 65535 expected, got {self.port}")
        if self.connections < 1:
            raise ValueError(f"connections: must be 1 or more, got {self.connections}")
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise ValueError(f"host: an IP address expected, got {self.host!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What stands behind the door."""

    speech: Speech | None = None
    """The stand-in of `ctx.call(Speech)`; None if there is none."""
    words: Sequence[str] = ()
    """The wake words that can be listened for."""
    detector: Callable[[Sequence[str]], Detector] | None = None
    """Makes a detector of its own for each client's sound."""
    max_audio_s: float = 60.0


class DoorOffer:
    """What the door's server offers: the parts that there are."""

    def __init__(self, parts: Parts) -> None:
        """Offer *parts*."""
        self._parts = parts

    async def describe(self) -> Mapping[str, Any]:
        """Return the data of `info`: wake words always, speech as far as it answers now."""
        told: dict[str, Any] = {}
        if self._parts.detector is not None:
            told["wake"] = info.wake("sparkd", self._parts.words)
        if self._parts.speech is not None:
            try:
                with anyio.fail_after(DESCRIBE_S):
                    told["tts"] = info.tts(await self._parts.speech.voices())
                told["asr"] = info.asr("sparkd", "speech", ["en"])
            except (CallError, TimeoutError):
                pass  # nobody serves it now: the client asks again when it is needed
        return told

    async def transcribe(self, pcm: bytes, *, rate_hz: int, language: str) -> Transcript:
        """Return what is said."""
        return await self._speech().transcribe(audio=_pieces(pcm), rate_hz=rate_hz, language=language)

    async def synthesize(self, text: str, *, voice: str, language: str) -> AsyncIterator[Sound]:
        """Speak."""
        async for sound in self._speech().synthesize(text=text, voice=voice, language=language):
            yield sound

    def detector(self, words: Sequence[str]) -> Detector:
        """Return a detector of the client's own. Raises DeviceError if a word is not known here."""
        if self._parts.detector is None:
            raise DeviceError("no wake words are listened for here", remedy="set a wake word in the config")
        if unknown := set(words) - set(self._parts.words):
            raise DeviceError(f"unknown wake word {min(unknown)[:50]!r}; known: {', '.join(self._parts.words)}")
        return self._parts.detector(words)

    def _speech(self) -> Speech:
        if self._parts.speech is None:
            raise DeviceError("no speech here", remedy="run voice-services on this node or on a linked one")
        return self._parts.speech


async def run_door(
    config: DoorConfig,
    parts: Parts,
    *,
    node: str,
    log: Log,
    troubles: Troubles,
    task_status: TaskStatus[int] = TASK_STATUS_IGNORED,
) -> None:
    """Keep the door open until cancelled; return at once if config keeps it closed.

    What goes wrong is told to *troubles* until it is right again, the address as `wyoming`, its announcement as
    `announcement`: the rest of the service goes on. Started with the port, 0 if the door is closed or its address
    cannot be had yet.
    """
    if not config.enabled:
        task_status.started(0)
        return
    limits = Limits(connections=config.connections, audio_s=parts.max_audio_s)
    server = Server(DoorOffer(parts), limits, log)
    async with anyio.create_task_group() as group:
        port = await group.start(
            partial(serve_at, server, config.host, config.port, tell=partial(troubles.set, "wyoming"))
        )
        task_status.started(port)
        if config.announce:
            group.start_soon(_announce, config, node, partial(troubles.set, "announcement"))


async def _announce(config: DoorConfig, node: str, tell: Callable[[DeviceError | None], None]) -> None:
    pause_s = ANNOUNCE_AGAIN_MIN_S
    while True:
        try:
            async with announced(node, config.host, config.port):
                tell(None)
                await anyio.sleep_forever()
        except DeviceError as error:
            tell(error)
        await anyio.sleep(pause_s)
        pause_s = min(2 * pause_s, ANNOUNCE_AGAIN_MAX_S)


@asynccontextmanager
async def announced(node: str, host: str, port: int) -> AsyncIterator[None]:
    """Announce the server at *host* and *port* while within. Raises DeviceError if it cannot be announced."""
    try:
        from zeroconf import Error, InterfaceChoice  # noqa: PLC0415 - an extra
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415
    except ImportError as error:
        raise DeviceError(f"the door cannot be announced: {error}", remedy="pip install 'sparkd[voice]'") from error
    anywhere = ipaddress.ip_address(host).is_unspecified
    label = re.sub(r"[^A-Za-z0-9-]", "-", node)[:40] or "sparkd"
    addresses = await anyio.to_thread.run_sync(_own_addresses) if anywhere else [host]
    service = AsyncServiceInfo(
        SERVICE_TYPE, f"{label}.{SERVICE_TYPE}", port=port, parsed_addresses=addresses, server=f"{label}.local."
    )
    try:
        _probe(host)
        zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All if anywhere else [host])
        try:
            await (await zeroconf.async_register_service(service, allow_name_change=True))
            yield
        finally:
            with anyio.move_on_after(2, shield=True):
                await zeroconf.async_unregister_all_services()
                await zeroconf.async_close()
    except (OSError, Error) as error:
        remedy = "see whether something holds port 5353 for itself, or set announce = false"
        raise DeviceError(f"the door cannot be announced at {host}: {error}", remedy=remedy) from error


def _probe(host: str) -> None:
    """Raise OSError if *host* is no address of this machine: zeroconf finds out too late, and leaks a socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))


def _own_addresses() -> list[str]:
    import ifaddr  # noqa: PLC0415 - zeroconf brought it

    plain = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [address for address in plain if not ipaddress.ip_address(address).is_loopback]


async def _pieces(pcm: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(pcm), PIECE_BYTES):
        yield pcm[begin : begin + PIECE_BYTES]
