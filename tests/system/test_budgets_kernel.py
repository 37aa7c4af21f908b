"""Budgets kept by a real kernel: one that has all controllers, booted as a process (user-mode Linux).

The machine that runs the tests may bind its controllers to the old hierarchy, and then no limit of a control group can
be seen to work there. So a kernel of its own is booted in a second, on this machine's files, and runs the tests of
`kernel_budgets` inside, where each is an operator's `sparkd run` beneath a delegated group.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = shutil.which("linux.uml")
INIT = """\
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
mkdir /run/checkout; mount --bind {root} /run/checkout  # it may lie beneath /tmp
mount -t tmpfs tmpfs /tmp; mkdir -p {root}; mount --bind /run/checkout {root}
mount -t tmpfs tmpfs /dev/shm 2>/dev/null || {{ mkdir -p /dev/shm; mount -t tmpfs tmpfs /dev/shm; }}
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
cd {root}
export HOME=/tmp PYTHONPATH={root} PYTHONPYCACHEPREFIX=/tmp/compiled SPARKD_TEST_PATIENCE=6
unset PYTHONDONTWRITEBYTECODE
timeout 540 {python} -m pytest -q -x -p no:cacheprovider --timeout 240 \\
  tests/system/kernel_budgets.py tests/system/test_budgets.py
echo "ended with $?"
echo o >/proc/sysrq-trigger
sleep 5
"""


@pytest.mark.timeout(600)
def test_the_kernel_keeps_services_to_their_budgets(tmp_path: Path) -> None:
    if KERNEL is None or os.geteuid() != 0:
        reason = "needs root and user-mode Linux (apt-get install user-mode-linux)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    init = tmp_path / "init"
    init.write_text(INIT.format(root=ROOT, python=sys.executable))
    init.chmod(0o755)
    booted = subprocess.run(
        [KERNEL, "mem=900M", "rootfstype=hostfs", "root=/dev/root", "ro", f"init={init}", "con=null", "con0=fd:0,fd:1"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=570,
        check=False,
        cwd=tmp_path,
    )
    said = booted.stdout.decode(errors="replace")
    assert "ended with 0" in said, said[-6000:]
