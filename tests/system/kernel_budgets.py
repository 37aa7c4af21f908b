"""What `test_budgets_kernel` runs on a kernel that has the controllers."""

from __future__ import annotations

import time
from pathlib import Path

from tests.system.test_budgets import delegated, node
from tests.system.watching import plugin, runs, service, until

EATS = """\
mark = ctx.state_dir / "mark"
task_status.started()
if mark.exists():
    await anyio.sleep_forever()
mark.write_text("")
held = []
while True:
    held.append(bytearray(b"x" * 1_000_000))
    await anyio.sleep(0)  # else `started` is never sent, and a slow kernel fills the memory after the limit
"""
BURNS = "task_status.started()\nwhile True:\n    sum(range(20_000))\n    await anyio.sleep(0)"
FORKS = """\
import threading
task_status.started()
threads = [threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(100)]
for thread in threads:
    thread.start()
"""


def test_one_that_holds_too_much_is_killed_for_it_told_so_and_started_again() -> None:
    with node("[plugins.it]\nmemory_max_bytes = 150000000\nstart_limit_s = 60.0\n") as home, delegated(home):
        (home.plugins / "it.py").write_text(plugin(EATS))
        seen = until(lambda: service(home, "it"), lambda found: found.get("last_failure"), limit_s=80)
        assert "memory_max_bytes = 150000000" in seen["last_failure"]["reason"]
        assert "raise its limit" in seen["last_failure"]["remedy"]
        runs(home, "it", limit_s=60)


def test_one_that_burns_the_processor_is_throttled_and_lives() -> None:
    with node("[plugins.it]\ncpu_max_percent = 20.0\n") as home, delegated(home):
        (home.plugins / "it.py").write_text(plugin(BURNS))
        pid = runs(home, "it", limit_s=60)["pid"]
        begun, before = time.monotonic(), used_s(pid)
        until(lambda: time.monotonic() - begun, lambda passed: passed > 5)
        assert (used_s(pid) - before) / (time.monotonic() - begun) < 0.3
        seen = service(home, "it")
        assert seen["budget"]["throttled_s"] > 1
        assert (seen["pid"], seen["restarts"]) == (pid, 0)


def test_one_that_is_slowed_for_a_while_is_slow_for_that_while() -> None:
    with node() as home, delegated(home):
        (home.plugins / "it.py").write_text(plugin(BURNS))
        pid = runs(home, "it", limit_s=60)["pid"]
        assert home.call("shedding.throttle", service="it", cpu_max_percent=20.0, reason="power is low") is True
        begun, before = time.monotonic(), used_s(pid)
        until(lambda: time.monotonic() - begun, lambda passed: passed > 5)
        assert (used_s(pid) - before) / (time.monotonic() - begun) < 0.3
        home.call("shedding.unthrottle", service="it", timeout_s=30.0)
        begun, before = time.monotonic(), used_s(pid)
        until(lambda: time.monotonic() - begun, lambda passed: passed > 3)
        assert (used_s(pid) - before) / (time.monotonic() - begun) > 0.4


def test_one_that_starts_too_many_threads_fails_by_itself() -> None:
    with node("[plugins.it]\ntasks_max = 32\n") as home, delegated(home):
        (home.plugins / "it.py").write_text(plugin(FORKS))
        seen = until(lambda: service(home, "it"), lambda found: found.get("last_failure"), limit_s=60)
        assert "start new thread" in seen["last_failure"]["reason"]
        assert seen["last_failure"]["file"].endswith("it.py")


def used_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
