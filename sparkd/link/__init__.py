"""Encrypted links to other nodes: keys, connections, and what may pass over them."""

from __future__ import annotations

from sparkd.link.hooks import Channel, LinkHooks, LinkSettings
from sparkd.link.invite import Code, Invites, join, read_code
from sparkd.link.keys import AllowList, KeyPair, KeyStore
from sparkd.link.link import Link
from sparkd.link.options import Timing
from sparkd.link.peer import Identity
from sparkd.link.rules import PeerSettings
from sparkd.link.session import LinkBus

__all__ = [
    "AllowList",
    "Channel",
    "Code",
    "Identity",
    "Invites",
    "KeyPair",
    "KeyStore",
    "Link",
    "LinkBus",
    "LinkHooks",
    "LinkSettings",
    "PeerSettings",
    "Timing",
    "join",
    "read_code",
]
