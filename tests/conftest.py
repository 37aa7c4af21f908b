"""What every test may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on the backend that the daemon uses."""
    return "asyncio"


def pytest_configure() -> None:
    """Let SIGINT end what tests start: a shell ignores it in its background jobs, and children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what forks a zygote, while this process has no other thread: as in the core."""
    items.sort(key=lambda item: item.path.parent.name not in {"zygote", "registry"})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is there that tests need (`SPARKD_NO_SKIPS`, in CI), a test that skips has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("SPARKD_NO_SKIPS"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, and nothing may be skipped here: {reason}"
    return report
