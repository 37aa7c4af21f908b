"""The event bus of a node: a broker in the core, a client in every service, and the sockets both stand on."""

from __future__ import annotations

from sparkd.bus.behind import Cut, QueueWatch
from sparkd.bus.broker import SUB, Broker
from sparkd.bus.client import BusClient
from sparkd.bus.flood import BusLimits
from sparkd.bus.retained import Retained
from sparkd.bus.sharing import Sharing
from sparkd.bus.sockets import Drained, context, finish
from sparkd.bus.subscription import Subscription

__all__ = [
    "SUB",
    "Broker",
    "BusClient",
    "BusLimits",
    "Cut",
    "Drained",
    "QueueWatch",
    "Retained",
    "Sharing",
    "Subscription",
    "context",
    "finish",
]
