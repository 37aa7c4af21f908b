"""Whatever is killed, and wherever, each result is stored exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.testing import Pair, drop, kills, pictures, prepare, running

KILLS = 50
STEPS = {
    "edge": (
        "outbox.before-fsync",
        "outbox.after-fsync",
        "outbox.before-cursor",
        "outbox.after-cursor",
        "uplink.before-send",
        "uplink.after-receipt",
        "uplink.before-advance",
        "inference.after-infer",
        "inference.after-append",
    ),
    "cloud": (
        "outbox.before-fsync",
        "outbox.after-fsync",
        "outbox.before-cursor",
        "outbox.after-cursor",
        "ingest.before-append",
        "ingest.after-append",
        "sink.before-commit",
        "sink.after-commit",
    ),
}


def feed(pair: Pair, count: int, seed: int) -> set[str]:
    names = set()
    for name, picture in pictures(count, seed):
        drop(pair.watch, name, picture)
        names.add(name)
    return names


@pytest.mark.timeout(120)
def test_each_result_arrives_once(pair: Pair) -> None:
    names = feed(pair, 20, seed=1)

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
@pytest.mark.parametrize(("side", "step"), [(side, step) for side, steps in STEPS.items() for step in steps])
def test_a_kill_at_a_named_step_loses_and_doubles_nothing(folder: Path, side: str, step: str) -> None:
    nodes = prepare(folder)
    flag = folder / "crashed"
    node = nodes.edge if side == "edge" else nodes.cloud
    node.environment = {"SPARKD_CRASH_AT": f"{step}:3:{flag}"}
    with running(nodes):
        names = feed(nodes, 12, seed=7)

        stored = kills.wait_until_stored(nodes, names)

        assert flag.exists(), f"{step} was never reached"
        assert sorted(stored) == sorted(names)


@pytest.mark.timeout(180)
def test_a_cloud_that_comes_late_gets_everything(folder: Path) -> None:
    nodes = prepare(folder)
    try:
        nodes.edge.start()
        names = feed(nodes, 20, seed=3)
        nodes.cloud.start()

        stored = kills.wait_until_stored(nodes, names)

        assert sorted(stored) == sorted(names)
    finally:
        nodes.edge.stop()
        nodes.cloud.stop()
