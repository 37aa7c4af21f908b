from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sparkd.bus import Broker
from sparkd.testing import short_folder


@pytest.fixture
def runtime() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def broker(runtime: Path) -> AsyncIterator[Broker]:
    async with Broker(runtime).open() as opened:
        yield opened
