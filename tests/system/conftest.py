"""Two real daemons, for tests of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.testing import Node, Pair, prepare, running, short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    """The demo's two nodes, running."""
    with running(prepare(folder)) as nodes:
        yield nodes


@pytest.fixture
def lone(folder: Path) -> Iterator[Node]:
    """One node with nothing configured, running."""
    node = Node("lone", folder, '[node]\nname = "lone"\nmetrics_listen = ""\n').prepare()
    try:
        yield node.start()
    finally:
        node.stop()
