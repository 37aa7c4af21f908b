"""Where calls meet ZeroMQ: the core's end for all its hosts, and a host's end for the core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyio.abc import TaskGroup

from sparkd.bus.sockets import Configure, DealerChannel, RouterChannel
from sparkd.calls.endpoint import Endpoint
from sparkd.calls.handlers import Handlers
from sparkd.calls.incoming import IncomingCall
from sparkd.calls.router import CallRouter

MAX_CONNECTIONS = 256
"""Of hosts. A node has tens of services; a host that reconnects for ever is not one of them."""


class _Wire:
    """The way to one host."""

    def __init__(self, channel: RouterChannel, peer: bytes) -> None:
        self._channel = channel
        self._peer = peer

    def send(self, frames: list[bytes], /) -> None:
        self._channel.send(self._peer, frames)


class _Door:
    """Makes an endpoint for each host that connects."""

    def __init__(self, router: CallRouter) -> None:
        self._router = router
        self._endpoints: dict[bytes, Endpoint] = {}
        self.channel: RouterChannel

    def on_message(self, peer: bytes, frames: list[bytes]) -> None:
        endpoint = self._endpoints.get(peer)
        if endpoint is None:
            self._forget_closed()
            if len(self._endpoints) >= MAX_CONNECTIONS:
                return
            endpoint = self._router.attach("a new host", _Wire(self.channel, peer), kind="service")
            self._endpoints[peer] = endpoint
        endpoint.feed(frames)

    def _forget_closed(self) -> None:
        for peer in [peer for peer, endpoint in self._endpoints.items() if endpoint.closed]:
            del self._endpoints[peer]

    def close(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.close("the node is stopping")


@contextmanager
def open_to_hosts(router: CallRouter, socket: Path, *, configure: Configure | None = None) -> Iterator[None]:
    """Let service hosts connect to *router* at *socket*, and close their connections at the end.

    ZeroMQ does not tell when a host is gone: who supervises its process calls `router.drop`.
    """
    door = _Door(router)
    door.channel = RouterChannel(f"ipc://{socket}", door.on_message, configure=configure)
    with door.channel:
        try:
            yield
        finally:
            door.close()


@contextmanager
def connect_to_core(socket: Path, *, handlers: Handlers, tasks: TaskGroup) -> Iterator[Endpoint]:
    """Connect a service's host to the core at *socket*; *handlers* answer what the core passes on."""
    channel = DealerChannel(f"ipc://{socket}", lambda frames: endpoint.feed(frames))  # noqa: PLW0108 - each needs the other
    endpoint = Endpoint(
        channel,
        accept=lambda end, request, body: IncomingCall(end, request, body, dispatch=handlers.dispatch),
        tasks=tasks,
        name="core",
    )
    with channel:
        try:
            yield endpoint
        finally:
            endpoint.close("this host is stopping")
