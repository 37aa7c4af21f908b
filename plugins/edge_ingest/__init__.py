"""edge-ingest: take other nodes' durable records into this node's outbox, and send commands to them.

A batch and the note of which range of its stream it covers go to disk in one transaction; then it is acknowledged. So a
batch that comes again, from a sender that was killed or did not get the answer, stores nothing twice.
"""

from __future__ import annotations

from typing import Any

from sparkd import Commands, Ingest, Service, hookimpl

from .service import run
from .settings import EdgeIngestConfig


@hookimpl
def sparkd_services() -> list[Service[Any]]:
    """Offer the one service of this plugin."""
    return [Service(name="edge-ingest", config=EdgeIngestConfig, run=run, serves=(Ingest, Commands))]
