"""What every test may use."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on the backend that the daemon uses."""
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what forks a zygote, while this process has no other thread: as in the core."""
    items.sort(key=lambda item: item.path.parent.name not in {"zygote", "registry"})
