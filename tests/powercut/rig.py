"""Running programs on a disk whose power is cut, and looking at what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sparkd.testing import short_folder

REPOSITORY = Path(__file__).parents[2]
MOUNT_LIMIT_S = 10.0


def check_possible() -> None:
    """Skip where there is no FUSE, or we may not mount."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and /dev/fuse")
    try:
        import mfusepy  # noqa: F401, PLC0415 - only to see whether it is there
    except (ImportError, OSError) as error:
        pytest.skip(f"no FUSE library: {error}; apt install libfuse3-3")


@dataclass
class Cut:
    """A folder `place` that holds what lasts, and `mount` where programs see it while the power is on."""

    place: Path
    mount: Path
    _server: subprocess.Popen[str] | None = None
    programs: list[subprocess.Popen[str]] = field(default_factory=list)
    last_words: list[str] = field(default_factory=list)
    """What each program had said by the cut, and nobody had read."""

    def power_on(self) -> None:
        """Mount it."""
        words = [sys.executable, "-m", "tests.powercut.cutfs", str(self.place), str(self.mount)]
        self._server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=_environment()
        )
        deadline = time.monotonic() + MOUNT_LIMIT_S
        while not os.path.ismount(self.mount):
            assert self._server.poll() is None, "the file system ended"
            assert time.monotonic() < deadline, "not mounted in time"
            time.sleep(0.01)

    def run(self, script: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a Python program."""
        words = [sys.executable, "-c", script, *map(str, arguments)]
        program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=_environment())
        self.programs.append(program)
        return program

    def cut(self, seed: int | None) -> None:
        """Kill every program and cut the power; afterwards `place` holds what is left of it."""
        for program in self.programs:
            program.send_signal(signal.SIGKILL)
        self.last_words = [program.communicate()[0] for program in self.programs]
        self.programs.clear()
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps({"seed": seed}) + "\n")
        self._server.stdin.flush()
        assert self._server.stdout.readline() == "cut\n"
        self._server.wait(MOUNT_LIMIT_S)
        self._server.stdin.close()
        self._server.stdout.close()
        self._server = None

    def close(self) -> None:
        """Leave nothing mounted."""
        if self._server is not None:
            self.cut(None)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def cut_disk() -> Iterator[Cut]:
    """Make a disk whose power can be cut; it is not on yet."""
    check_possible()
    with short_folder() as folder:
        place, mount = folder / "place", folder / "mount"
        place.mkdir()
        mount.mkdir()
        disk = Cut(place, mount)
        try:
            yield disk
        finally:
            disk.close()
