"""A disk that hangs, is slow, full, gone or lies: a folder shown through FUSE by a process of its own.

What it does is said in a file of JSON: `delay_s` before each answer, `errno` for each answer, `full` for what writes,
`corrupt` for what is read. SIGSTOP makes it hang.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class SlowDisk:
    """One that is mounted."""

    path: Path
    """What is seen of it."""
    folder: Path
    """What is behind it."""
    control: Path
    process: subprocess.Popen[bytes]
    stopped: bool = field(default=False)

    def now(self, **how: Any) -> None:
        """Behave so from now on."""
        part = self.control.with_suffix(".part")
        part.write_text(json.dumps(how))
        part.replace(self.control)

    def freeze(self) -> None:
        """Hang, from when this returns: all of its threads stand still then."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)
        self.stopped = True

    def thaw(self) -> None:
        """Go on."""
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False


@contextmanager
def slow_disk(root: Path, *, cached_s: float = 0.0) -> Iterator[SlowDisk]:
    """Mount one in *root*, whose names and attributes the kernel knows for so long; skips where that cannot be done."""
    if os.getuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("fusermount3") is None:
        pytest.skip("FUSE needs root, /dev/fuse and fusermount3")
    folder, mount, control = root / "behind", root / "seen", root / "control"
    folder.mkdir()
    mount.mkdir()
    control.write_text("{}")
    command = [sys.executable, "-m", "tests.plugins.slow_disk_fs", *map(str, (folder, mount, control, cached_s))]
    process = subprocess.Popen(command)
    disk = SlowDisk(mount, folder, control, process)
    try:
        deadline = time.monotonic() + 10
        while not mount.is_mount():
            assert time.monotonic() < deadline, "it was not mounted"
            time.sleep(0.02)
        yield disk
    finally:
        if disk.stopped:
            disk.thaw()
        disk.now()
        subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False)
        process.terminate()
        process.wait(10)
