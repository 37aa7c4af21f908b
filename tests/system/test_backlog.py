"""A cloud that was away for long: what waited for it arrives once, and the edge node's memory does not grow with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.testing import backlog, prepare

BACKLOG_BYTES = 100_000_000
MEMORY_LIMIT_BYTES = 60_000_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_backlog_drains_once_and_in_little_memory(folder: Path) -> None:
    nodes = prepare(folder)
    backlog.room(nodes, BACKLOG_BYTES)
    written = backlog.write(nodes.edge, BACKLOG_BYTES)

    outcome = backlog.drain(nodes, written, limit_s=240)

    assert outcome.exact, outcome
    assert outcome.memory["edge"].peak_pss <= MEMORY_LIMIT_BYTES
    assert outcome.memory["edge cloud-uplink"].peak_pss <= MEMORY_LIMIT_BYTES


@pytest.mark.kills
@pytest.mark.timeout(120)
@pytest.mark.parametrize("side", ["edge", "cloud"])
@pytest.mark.parametrize("step", ["outbox.before-unlink", "outbox.after-unlink"])
def test_a_kill_while_a_passed_segment_is_removed_loses_and_doubles_nothing(folder: Path, side: str, step: str) -> None:
    assert backlog.at_step(folder, side, step).exact
