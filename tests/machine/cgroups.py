"""A control group for each machine: nspawn would put all of them into one, the caller's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REMOVE_LIMIT_S = 30.0


@contextmanager
def own(name: str) -> Iterator[list[str]]:
    """Make a control group; yield the words before a command that put it there. In the end all in it are killed."""
    group = _place(name)
    for controller in ("cpu", "memory", "pids"):
        with suppress(OSError):  # an old hierarchy has it
            (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir(exist_ok=True)
    try:
        yield ["sh", "-c", 'echo $$ >"$0"/cgroup.procs; exec "$@"', str(group)]
    finally:
        remove(name)


def remove(name: str) -> None:
    """Kill what is left in the control group *name*, if there is one, and remove it."""
    group = _place(name)
    with suppress(FileNotFoundError):
        (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + REMOVE_LIMIT_S
    for folder, _, _ in os.walk(group, topdown=False):
        while not _removed(Path(folder)):
            assert time.monotonic() < deadline, f"{folder} cannot be removed"
            time.sleep(0.01)


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # the killed are still going
        return False
    return True


def _place(name: str) -> Path:
    """Return the folder of a group in the unified hierarchy, which stands beside the old ones where there are any."""
    unified = Path("/sys/fs/cgroup/unified")
    return (unified if unified.exists() else Path("/sys/fs/cgroup")) / f"sparkd-{name}"
