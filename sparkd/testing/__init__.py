"""What tests, benchmarks and the demo stand on: real daemons as child processes on loopback, each in its own folder."""

from __future__ import annotations

from sparkd.testing import backlog, kills
from sparkd.testing.node import Node, descendants, free_port, pss_bytes, short_folder
from sparkd.testing.pair import Pair, arrivals, drop, pictures, prepare, running

__all__ = [
    "Node",
    "Pair",
    "arrivals",
    "backlog",
    "descendants",
    "drop",
    "free_port",
    "kills",
    "pictures",
    "prepare",
    "pss_bytes",
    "running",
    "short_folder",
]
