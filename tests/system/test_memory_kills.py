"""kill -9 while writes are on their way, at random moments and at named steps: no acknowledged write is lost.

`SPARKD_MEMORY_KILLS` says how often; `make soak` has it 500 times.
"""

from __future__ import annotations

import base64
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node, short_folder
from tests.system.test_budgets import node
from tests.system.test_memory_node import CONFIG
from tests.system.watching import runs, service, until

KILLS = int(os.environ.get("SPARKD_MEMORY_KILLS", "50"))
STEPS = (
    "memory.after-journal",
    "memory.after-blob",
    "memory.directory-version",
    "memory.directory-head",
    "memory.after-tier",
    "memory.after-cursor",
)
KEYS = 8
LARGE = 100_000


@dataclass
class Writer:
    """Writes one key after another, and remembers what was acknowledged and what was tried since."""

    home: Node
    acknowledged: dict[str, bytes] = field(default_factory=dict)
    since: dict[str, list[bytes]] = field(default_factory=dict)
    count: int = 0
    failed: int = 0
    over: bool = False

    def run(self) -> None:
        while not self.over:
            self.count += 1
            key = f"k{self.count % KEYS}"
            value = b"%d " % self.count * (LARGE // 6 if self.count % 7 == 0 else 1)
            self.since.setdefault(key, []).append(value)
            encoded = base64.b64encode(value).decode()
            try:
                self.home.call("memory.put", namespace="news", key=key, value=encoded)
            except (CallError, OSError):
                self.failed += 1
                time.sleep(0.02)  # not to fill the socket's backlog while nobody serves
            else:
                self.acknowledged[key] = value
                self.since[key] = []

    def check(self) -> int:
        """Read every key: it has the last value that was acknowledged, or one that was tried after it."""
        for key, value in self.acknowledged.items():
            entry = self.home.call("memory.get", namespace="news", key=key)
            assert entry is not None, f"{key} is gone"
            assert base64.b64decode(entry["value"]) in [value, *self.since[key]], f"{key} is not what it was"
        return len(self.acknowledged)


def pid_of(home: Node) -> int:
    try:
        return int(service(home, "nas-tier")["pid"] or 0)
    except (CallError, OSError):
        return 0


def poured(home: Node) -> None:
    """Wait until every tier has everything."""

    def nothing_waits(tiers: list[dict[str, int]]) -> bool:
        return not any(one["behind"] for one in tiers)

    until(lambda: home.call("memory.stats")["tiers"], nothing_waits, limit_s=30)


@pytest.mark.kills
@pytest.mark.timeout(90 + 4 * KILLS)
def test_no_acknowledged_write_is_lost_by_kills_at_any_moment() -> None:
    choose = random.Random(KILLS)
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.start()
        runs(home, "nas-tier")
        writer = Writer(home)
        thread = threading.Thread(target=writer.run)
        thread.start()
        try:
            for number in range(KILLS):
                time.sleep(choose.uniform(0.05, 0.4))
                if number % 5 == 4:
                    home.kill()
                    home.start()
                elif pid := pid_of(home):
                    os.kill(pid, signal.SIGKILL)
        finally:
            writer.over = True
            thread.join()
        runs(home, "nas-tier", limit_s=60)
        assert writer.check() == KEYS
        until(
            lambda: home.call("memory.stats")["tiers"],
            lambda tiers: all(not one["behind"] for one in tiers),
            limit_s=30,
        )
        assert writer.check() == KEYS
        assert writer.count - writer.failed > KILLS


@pytest.mark.kills
@pytest.mark.timeout(120)
@pytest.mark.parametrize("step", STEPS)
def test_no_acknowledged_write_is_lost_by_a_kill_at_a_named_step(step: str) -> None:
    with short_folder() as nas, node(CONFIG.format(nas=nas)) as home:
        home.environment = {"SPARKD_CRASH_AT": f"{step}:3:{home.root / 'crashed'}"}
        home.start()
        runs(home, "nas-tier")
        writer = Writer(home)
        thread = threading.Thread(target=writer.run)
        thread.start()
        try:
            until((home.root / "crashed").exists, bool, limit_s=30)
            until(lambda: len(writer.acknowledged), bool, limit_s=60)  # it may have been the first one
            time.sleep(0.3)
        finally:
            writer.over = True
            thread.join()
        runs(home, "nas-tier", limit_s=60)
        until(
            lambda: home.call("memory.stats")["tiers"],
            lambda tiers: all(not one["behind"] for one in tiers),
            limit_s=30,
        )
        assert writer.check()
