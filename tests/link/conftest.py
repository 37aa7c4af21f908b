from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.testing import short_folder


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder whose sockets' paths are short enough."""
    with short_folder() as folder:
        yield folder
