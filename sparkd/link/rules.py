"""What may pass between this node and one peer: pure decisions from the config of both, checked at each end.

The side that sends refuses what may not leave, and the side that receives refuses it again (design §7): privacy by the
peer's *configured* site, topics by the peer's `send` and `receive`, calls by its `calls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sparkd.calls.address import parse_address
from sparkd.calls.frames import Request
from sparkd.codec import MAX_EVENT_BYTES, Message
from sparkd.errors import CallError
from sparkd.events import topic_matches
from sparkd.privacy import Privacy
from sparkd.reference import is_reference

MAX_NAME = 255
"""Characters of a topic or service name from another node; the local bus must never choke on a header."""


class PeerSettings(Protocol):
    """A table `[link.peers.NAME]`."""

    @property
    def address(self) -> str:
        """Where to dial it, `host:port`; empty if it dials."""
        ...

    @property
    def site(self) -> str:
        """The site it stands at."""
        ...

    @property
    def send(self) -> Sequence[str]:
        """Topics that go to it, with all beneath them."""
        ...

    @property
    def receive(self) -> Sequence[str]:
        """Topics taken from it, with all beneath them."""
        ...

    @property
    def calls(self) -> Sequence[str]:
        """Methods it may call here: `interface.method`, or `interface.*`."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something may not pass."""

    kind: str
    """What it is counted under."""
    rule: str
    """The rule, for whoever asks."""


class PeerRules:
    """The rules for one peer. Each method returns None for what may pass."""

    def __init__(self, *, node: str, site: str, peer: str, settings: PeerSettings) -> None:
        self._node = node
        self._peer = peer
        self._same_site = bool(site) and site == settings.site
        self._where = f"[link.peers.{peer}]"
        self._settings = settings

    def topics(self) -> list[str]:
        """Return the topics to subscribe to for the peer, none of them beneath another."""
        wanted = sorted(set(self._settings.send))
        return [t for t in wanted if not any(other != t and topic_matches(other, t) for other in wanted)]

    def is_ours(self, message: Message) -> bool:
        """Whether an event was made on this node: a remote one is never forwarded again."""
        return message.header.node == self._node

    def sending(self, message: Message) -> Refusal | None:
        """Judge an event of this node before it leaves."""
        return self._privacy(message.header.privacy, f"send {message.topic}")

    def receiving(self, message: Message) -> Refusal | None:
        """Judge an event that the peer sent."""
        topic, header = message.topic, message.header
        claimed = header.node
        if len(message.body) > MAX_EVENT_BYTES:
            return Refusal(
                "receive: too large", f"an event of {len(message.body)} bytes; {MAX_EVENT_BYTES} at the most"
            )
        if is_reference(message.body):
            return Refusal("receive: reference", "an event that refers to memory of another node")
        if len(topic) > MAX_NAME or len(header.service) > MAX_NAME or len(header.trace or b"") > MAX_NAME:
            return Refusal("receive: malformed", f"a name in an event has {MAX_NAME} characters at the most")
        if claimed != self._peer:
            return Refusal(
                f"receive: event of another node, {topic}", f"{self._peer} sent an event of {claimed[:64]!r}"
            )
        if not any(topic_matches(pattern, topic) for pattern in self._settings.receive):
            return Refusal(f"receive: topic {topic}", f"{topic} is not in {self._where} receive")
        return self._privacy(message.header.privacy, f"receive {topic}")

    def calling(self, request: Request) -> Refusal | None:
        """Judge a call to the peer before it leaves."""
        return self._privacy(request.privacy, f"call {request.method[:100]}")

    def called(self, request: Request) -> Refusal | None:
        """Judge a call that the peer makes."""
        try:
            address = parse_address(request.method)
        except CallError:
            return None  # whoever answers calls says what is wrong with it
        name = address.name
        relayed = address.node not in {"", self._node}  # another rule's affair, and the call router's
        if not relayed and not {name, f"{address.interface}.*"} & set(self._settings.calls):
            return Refusal(f"called: {name}", f"{name} is not in {self._where} calls")
        return self._privacy(request.privacy, f"called {name}")

    def _privacy(self, privacy: Privacy, what: str) -> Refusal | None:
        if privacy.may_reach(same_node=False, same_site=self._same_site):
            return None
        kept = "stays on its node" if privacy is Privacy.NODE else f"stays at its site, and {self._peer} is elsewhere"
        return Refusal(f"{what}: privacy {privacy.label}", f"privacy {privacy.label}: it {kept}")
