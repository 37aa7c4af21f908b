"""The promise of exactly once, put to the test: kill processes of the two nodes while results flow, then count.

Every few pictures one process is killed with SIGKILL: a daemon (which takes its children with it, and is started again
as systemd would), or one child of a daemon (which the daemon starts again by itself). At the end every picture must
have exactly one result in the cloud.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.errors import CallError
from sparkd.testing.node import Node
from sparkd.testing.pair import Pair, arrivals, drop, pictures, prepare, running

ARRIVAL_LIMIT_S = 180.0
LOOK_INTERVAL_S = 0.2
SERVICE_LIMIT_S = 5.0
"""How long a service that is to be killed may take to come up; then its daemon is killed instead."""
VICTIMS = (
    ("control-pc", ""),
    ("primecore", ""),
    ("control-pc", "cloud-uplink"),
    ("control-pc", "hailo-inference"),
    ("primecore", "edge-ingest"),
    ("primecore", "stream-sink"),
)
"""Node, and the service to kill there; nothing for the daemon itself."""
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
"""The steps of `sparkd.steps` that a dozen pictures reach, by the node that is killed there."""


@dataclass
class Outcome:
    """What a run came to."""

    pictures: int
    kills: Counter[str] = field(default_factory=Counter)
    missing: set[str] = field(default_factory=set)
    doubled: int = 0
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether each picture has exactly one result."""
        return not self.missing and not self.doubled


def run(pair: Pair, *, kills: int, count: int, seed: int, pause_s: tuple[float, float] = (0.05, 0.4)) -> Outcome:
    """Feed *count* pictures to the running *pair*, killing *kills* times in between; wait, count, and return that."""
    chance = random.Random(seed)
    outcome = Outcome(count)
    begun = time.monotonic()
    names = set()
    for number, (name, picture) in enumerate(pictures(count, seed)):
        drop(pair.watch, name, picture)
        names.add(name)
        while outcome.kills.total() * count < kills * (number + 1):
            time.sleep(chance.uniform(*pause_s))  # noqa: TID251 - the random point of the next kill
            outcome.kills[kill_one(pair, chance)] += 1
    rows = wait_until_stored(pair, names)
    outcome.missing = names - set(rows)
    outcome.doubled = len(rows) - len(set(rows))
    outcome.seconds = time.monotonic() - begun
    return outcome


def at_step(root: Path, side: str, step: str, *, count: int = 12, seed: int = 7) -> Outcome:
    """Run a pair of nodes beneath *root* of which one, *side*, dies when it reaches *step*; feed pictures and count.

    Raises RuntimeError if the step was never reached.
    """
    pair, flag, outcome = prepare(root), root / "crashed", Outcome(count)
    node = pair.edge if side == "edge" else pair.cloud
    node.environment = {"SPARKD_CRASH_AT": f"{step}:3:{flag}"}
    begun = time.monotonic()
    with running(pair):
        names = feed(pair, count=count, seed=seed)
        rows = wait_until_stored(pair, names)
    if not flag.exists():
        raise RuntimeError(f"{step} was never reached")
    outcome.kills[f"{side} {step}"] += 1
    outcome.missing = names - set(rows)
    outcome.doubled = len(rows) - len(set(rows))
    outcome.seconds = time.monotonic() - begun
    return outcome


def feed(pair: Pair, *, count: int, seed: int) -> set[str]:
    """Give *count* pictures to the edge node; return their names."""
    names = set()
    for name, picture in pictures(count, seed):
        drop(pair.watch, name, picture)
        names.add(name)
    return names


def kill_one(pair: Pair, chance: random.Random) -> str:
    """Kill one process of *pair*, chosen by *chance*; return which."""
    node_name, service = chance.choice(VICTIMS)
    node = pair.edge if node_name == pair.edge.name else pair.cloud
    pid = _next_pid(node, service) if service else None
    if pid is None:
        node.kill()
        node.start(ready=False)
        return f"{node_name} daemon"
    os.kill(pid, signal.SIGKILL)
    return f"{node_name} {service}"


def _next_pid(node: Node, service: str) -> int | None:
    """Return the process of *service*, waiting while it is still on its way after the kill before; None if too long."""
    deadline = time.monotonic() + SERVICE_LIMIT_S
    while (pid := service_pid(node, service)) is None and time.monotonic() < deadline:
        time.sleep(LOOK_INTERVAL_S / 4)  # noqa: TID251 - watches other processes from outside
    return pid


def service_pid(node: Node, service: str) -> int | None:
    """Return the process of *service* on *node*; None if it runs none now, or the node does not answer."""
    try:
        status = node.call("node.status", timeout_s=5.0)
    except (OSError, CallError):
        return None
    return next((s["pid"] for s in status["services"] if s["name"] == service and s["pid"]), None)


def revive(node: Node) -> None:
    """Start *node* again if its daemon has died."""
    if node.process is not None and node.process.poll() is not None:
        node.start(ready=False)


def wait_until_stored(pair: Pair, names: set[str], *, limit_s: float = ARRIVAL_LIMIT_S) -> list[str]:
    """Wait until each of *names* has a result in the cloud, reviving daemons that died; return what is stored."""
    deadline = time.monotonic() + limit_s
    while True:
        revive(pair.edge)
        revive(pair.cloud)
        stored = [row[0] for row in arrivals(pair.database)]
        if names <= set(stored) or time.monotonic() > deadline:
            return stored
        time.sleep(LOOK_INTERVAL_S)  # noqa: TID251 - watches other processes' work from outside
