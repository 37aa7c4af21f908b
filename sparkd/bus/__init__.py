"""The event bus of a node: a broker in the core, a client in every service, and the sockets both stand on."""

from __future__ import annotations

from sparkd.bus.broker import Broker
from sparkd.bus.client import BusClient
from sparkd.bus.retained import Retained
from sparkd.bus.sockets import Drained, context, finish
from sparkd.bus.subscription import Subscription

__all__ = [
    "Broker",
    "BusClient",
    "Drained",
    "Retained",
    "Subscription",
    "context",
    "finish",
]
