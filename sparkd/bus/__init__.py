"""The event bus of a node: a broker in the core, a client in every service, and the sockets that calls use too."""

from __future__ import annotations

from sparkd.bus.broker import Broker
from sparkd.bus.client import BusClient
from sparkd.bus.retained import Retained
from sparkd.bus.sockets import DealerChannel, Drained, RouterChannel, context, finish
from sparkd.bus.subscription import Subscription

__all__ = [
    "Broker",
    "BusClient",
    "DealerChannel",
    "Drained",
    "Retained",
    "RouterChannel",
    "Subscription",
    "context",
    "finish",
]
