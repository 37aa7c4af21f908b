"""A short chaos run: each kind of fault once, and a seed that is the same each time. The long one is `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.testing.chaos import Plan, run
from sparkd.testing.chaos.faults import FAULTS


@pytest.mark.timeout(300)
def test_each_kind_of_fault_once_breaks_no_promise(folder: Path) -> None:
    plan = Plan(
        seed=20261123, faults=len(FAULTS), pause_s=(0.2, 1.0), quiet_s=2.0, look_every_s=1.0, command_every_s=0.5
    )
    outcome = run(folder, plan)

    assert outcome.broken == []
    assert sum(outcome.faults.values()) == plan.faults
    assert outcome.records["acknowledged"] == outcome.records["stored"] > 100
    assert outcome.commands["done"] > 0
