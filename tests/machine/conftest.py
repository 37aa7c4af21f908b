"""Tests that boot machines: a first one on a fresh computer waits until its Debian is made."""

from __future__ import annotations

from pathlib import Path

import pytest

MAKING_LIMIT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(MAKING_LIMIT_S))
