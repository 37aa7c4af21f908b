"""What the link is given by whoever runs it: its table of the config, and whom to tell what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sparkd.calls.frames import Request
from sparkd.codec import Message
from sparkd.events import LinkChanged
from sparkd.link.rules import PeerSettings


class Channel(Protocol):
    """Where messages of calls to one peer go."""

    def send(self, frames: list[bytes], /) -> None:
        """Send `[head, body]`. Raises CallError: see `Session.send`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkHooks:
    """Whom the link tells what happens. None of these may wait or raise."""

    on_peer_up: Callable[[str, Channel], None] = lambda _peer, _channel: None
    """A peer is connected; calls to it go into the channel."""
    on_peer_down: Callable[[str, str], None] = lambda _peer, _reason: None
    """It no longer is, and why."""
    on_frames: Callable[[str, list[bytes]], None] = lambda _peer, _frames: None
    """A message of a call came from it: head and body."""
    on_call_refused: Callable[[str, Request, bytes, str], None] = lambda _peer, _request, _body, _rule: None
    """A call that it made was refused here, by a rule."""
    retained: Callable[[Sequence[str]], Sequence[Message]] = lambda _topics: ()
    """Returns the last values of state topics at or beneath those given: what a peer that connects should know."""
    on_change: Callable[[LinkChanged], None] = lambda _change: None
    """Something to publish."""


class LinkSettings(Protocol):
    """The table `[link]`."""

    @property
    def listen(self) -> str:
        """Where to listen, `host:port`; empty to only dial."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The largest message taken or sent."""
        ...

    @property
    def heartbeat_s(self) -> float:
        """How often to see whether the other side is there."""
        ...

    @property
    def peers(self) -> Mapping[str, PeerSettings]:
        """The peers by name."""
        ...
