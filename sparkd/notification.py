"""Telling people: what a service may ask of `notify`. Layer: values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from sparkd.interfaces import interface, reads

PRIORITIES = ("min", "low", "default", "high", "urgent")
Priority = Literal["min", "low", "default", "high", "urgent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatus:
    """A way to tell people, and how it is."""

    name: str
    kind: str
    state: Literal["idle", "sending", "waiting"]
    """`waiting`: the last try failed, and it tries again."""
    reason: str = ""
    delivered: int = 0
    refused: int = 0
    """What the server never took: it is among the dead letters."""
    expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyStatus:
    """What was told, and what was not."""

    channels: list[ChannelStatus] = field(default_factory=list)
    noted: int = 0
    """Notifications that were kept for delivery."""
    repeated: int = 0
    """Those that said the same again within their time."""
    limited: int = 0
    """Those beyond a rule's limit an hour."""
    withheld: int = 0
    """Those that no channel may have, by their privacy class."""


@interface("notify")
class Notify(Protocol):
    """Tells people."""

    async def send(
        self, *, message: str, title: str = "", priority: Priority = "default", channels: list[str] | None = None
    ) -> int:
        """Tell *message*, by all channels or by those named; return its number once it is on disk."""
        ...

    @reads
    async def status(self) -> NotifyStatus:
        """Return how the channels are."""
        ...
