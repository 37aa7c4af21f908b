"""Budgets of real services: in a real control group where there is one, else by limits of the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from sparkd.testing import Node, short_folder
from tests.system.watching import QUIET, exists, plugin, runs, service, until

LIMITS = "cpu_max_percent = 50.0\ntasks_max = 64\nmemory_max_bytes = 2000000000\nopen_files_max = 64\n"
SPAWNS = """\
import subprocess
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
(ctx.state_dir / "child").write_text(str(child.pid))
task_status.started()
await anyio.sleep_forever()
"""
OPENS = "held = []\ntask_status.started()\nwhile True:\n    held.append(open('/dev/null'))"


@contextmanager
def node(tables: str = "") -> Iterator[Node]:
    with short_folder() as folder:
        made = Node("home", folder, f'[node]\nname = "home"\nmetrics_listen = ""\n{tables}').prepare()
        try:
            yield made
        finally:
            made.stop()


def unified() -> Path | None:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    return Path(found[0]) if found else None


@contextmanager
def delegated(started: Node) -> Iterator[Path]:
    """Start the daemon in a group of its own, marked as systemd marks what it delegates."""
    top = unified()
    if top is None or os.geteuid() != 0:
        pytest.skip("a control group can be made by root only, where cgroup v2 is mounted")
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    home, group = top / own.lstrip("/"), top / own.lstrip("/") / f"sparkd-test-{os.getpid()}"
    for name in ("cpu", "memory", "pids"):
        with suppress(OSError):  # an old hierarchy has it
            (home / "cgroup.subtree_control").write_text(f"+{name}")
    group.mkdir()
    try:
        os.setxattr(group, "user.delegate", b"1")
        (group / "cgroup.procs").write_text("0")
        try:
            started.start()
        finally:
            (home / "cgroup.procs").write_text("0")
        yield group
        started.stop()
    finally:
        with suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        for folder, _, _ in os.walk(group, topdown=False):
            until(partial(_removed, Path(folder)), bool)


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()


def test_core_and_services_stand_in_groups_of_their_own() -> None:
    with node(f"[plugins.it]\n{LIMITS}") as home, delegated(home) as group:
        (home.plugins / "it.py").write_text(plugin(SPAWNS))
        seen = runs(home, "it")
        assert home.process is not None
        assert str(home.process.pid) in (group / "core" / "cgroup.procs").read_text().split()
        (own,) = group.glob("service.it.*")
        assert str(seen["pid"]) in (own / "cgroup.procs").read_text().split()
        given = set((group / "cgroup.subtree_control").read_text().split())
        kept = {"cpu_max_percent": "cpu", "tasks_max": "pids"}
        assert seen["budget"]["not_kept"] == [key for key, name in kept.items() if name not in given]
        if "memory" in given:
            assert (own / "memory.max").read_text().strip() == str(2_000_000_000 // 4096 * 4096)
        if "pids" in given:
            assert (own / "pids.max").read_text().strip() == "64"
        if "cpu" in given:
            assert (own / "cpu.max").read_text().split() == ["50000", "100000"]


def test_what_a_killed_service_started_in_a_session_of_its_own_dies_with_it() -> None:
    with node() as home, delegated(home) as group:
        (home.plugins / "it.py").write_text(plugin(SPAWNS))
        pid = runs(home, "it")["pid"]
        child = int((home.state / "plugins" / "it" / "child").read_text())
        assert exists(child)
        os.kill(pid, 9)
        until(lambda: exists(child), lambda there: not there)
        until(lambda: service(home, "it"), lambda found: found["state"] == "running" and found["pid"] != pid)
        until(lambda: [one.name for one in group.glob("service.it.*")], lambda names: names == ["service.it.2"])


def test_a_group_that_was_not_delegated_is_left_as_it_is() -> None:
    with node("[plugins.it]\ntasks_max = 64\n") as home:
        home.start()
        (home.plugins / "it.py").write_text(plugin(QUIET))
        assert runs(home, "it")["budget"]["not_kept"] == ["tasks_max"]
        assert home.process is not None
        ours, its = (Path(f"/proc/{pid}/cgroup").read_text() for pid in ("self", home.process.pid))
        assert ours == its


def test_one_that_opens_too_many_files_is_restarted_and_told_which_key() -> None:
    with node("[plugins.it]\nopen_files_max = 64\n") as home:
        home.start()
        (home.plugins / "it.py").write_text(plugin(OPENS))
        found = until(lambda: service(home, "it"), lambda seen: seen.get("last_failure"))["last_failure"]
        assert "Too many open files" in found["reason"]
        assert "open_files_max" in found["remedy"]
        assert found["file"].endswith("it.py")
