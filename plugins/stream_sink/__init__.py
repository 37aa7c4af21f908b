"""stream-sink: write the records that edge-ingest took into tables one can query.

It reads the stream `ingest` and writes rows and its position in it with one transaction of its own database; only then
it lets the outbox go on. So a record is a row exactly once, wherever the process is killed.
"""

from __future__ import annotations

from typing import Any

from sparkd import Service, Store, hookimpl

from .service import run
from .settings import StreamSinkConfig


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [Service(name="stream-sink", config=StreamSinkConfig, run=run, serves=(Store,))]
