"""Whatever is killed, and wherever, each result is stored exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.testing import Pair, kills, prepare

KILLS = 50


@pytest.mark.timeout(120)
def test_each_result_arrives_once(pair: Pair) -> None:
    names = kills.feed(pair, count=20, seed=1)

    stored = kills.wait_until_stored(pair, names)

    assert sorted(stored) == sorted(names)


@pytest.mark.kills
@pytest.mark.timeout(600)
def test_random_kills_lose_and_double_nothing(pair: Pair) -> None:
    outcome = kills.run(pair, kills=KILLS, count=60, seed=20261122)

    assert outcome.kills.total() == KILLS
    assert outcome.exact, outcome


@pytest.mark.kills
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("side", "step"), [(side, step) for side, steps in kills.STEPS.items() for step in steps])
def test_a_kill_at_a_named_step_loses_and_doubles_nothing(folder: Path, side: str, step: str) -> None:
    assert kills.at_step(folder, side, step).exact


@pytest.mark.timeout(180)
def test_a_cloud_that_comes_late_gets_everything(folder: Path) -> None:
    nodes = prepare(folder)
    try:
        nodes.edge.start()
        names = kills.feed(nodes, count=20, seed=3)
        nodes.cloud.start()

        stored = kills.wait_until_stored(nodes, names)

        assert sorted(stored) == sorted(names)
    finally:
        nodes.edge.stop()
        nodes.cloud.stop()
