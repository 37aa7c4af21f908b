"""The outbox: durable streams on the local disk. What is acknowledged here survives kill -9 and a power cut.

Theory of operation. A service writes its own streams, each a chain of SQLite segments; any service may read any stream
under a name of its own, and keeps a cursor. A segment goes when every reader has passed it. Reading never blocks
writing; a dead reader costs disk up to the cap; a damaged segment costs what was damaged. See `sparkd.outbox.files`
for what lies where.
"""

from __future__ import annotations

from sparkd.outbox.inspect import dead_letters, drop_dead, forget_reader, inspect, list_streams, retry_dead
from sparkd.outbox.outbox import DiskOutbox, open_outbox
from sparkd.outbox.remote import RemoteOutbox
from sparkd.outbox.restored import leap
from sparkd.outbox.trim import Limits

__all__ = [
    "DiskOutbox",
    "Limits",
    "RemoteOutbox",
    "dead_letters",
    "drop_dead",
    "forget_reader",
    "inspect",
    "leap",
    "list_streams",
    "open_outbox",
    "retry_dead",
]
