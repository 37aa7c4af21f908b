"""The core as a process of its own, killed without mercy."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CORE = """
import json, os, sys
import anyio
from sparkd.zygote import Zygote

BUSY = b'''
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("up", flush=True)
while True:
    pass
'''
SLEEPING = b'import time; print("up", flush=True); time.sleep(1000)'


def run_source(spec, result_fd):
    exec(spec.decode(), {})
    return 0


async def main():
    up = 0
    all_up = anyio.Event()

    def count(line):
        nonlocal up
        up += 1
        if up == 4:
            all_up.set()

    async with zygote.attach():
        children = [await zygote.spawn("source", s, on_line=count) for s in (BUSY, SLEEPING, SLEEPING, SLEEPING)]
        await all_up.wait()
        print(json.dumps([zygote.pid, *(child.pid for child in children)]), flush=True)
        await zygote.lost.wait()
        await children[0].wait()
    sys.exit(17)


zygote = Zygote.fork({"source": run_source})
anyio.run(main)
"""

REFUSING = """
import os, resource
import anyio
from sparkd.zygote import Zygote

anyio.run(anyio.sleep, 0)  # imports what a user without rights may not be able to read
if os.getuid() == 0:  # root has no limit of processes
    os.setuid(65534)


async def main():
    async with zygote.attach():
        _, hard = resource.prlimit(zygote.pid, resource.RLIMIT_NPROC)
        resource.prlimit(zygote.pid, resource.RLIMIT_NPROC, (0, hard))
        try:
            await zygote.spawn("quick", b"")
        except BlockingIOError as error:
            print(error, flush=True)
        resource.prlimit(zygote.pid, resource.RLIMIT_NPROC, (hard, hard))
        child = await zygote.spawn("quick", b"")
        print(await child.wait(), flush=True)


zygote = Zygote.fork({"quick": lambda spec, result_fd: 9})
anyio.run(main)
"""


@contextmanager
def running(tmp_path: Path, source: str) -> Iterator[subprocess.Popen[str]]:
    script = tmp_path / "core.py"
    script.write_text(source)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as core:
        try:
            yield core
        finally:
            core.kill()


def first_line(core: subprocess.Popen[str]) -> str:
    assert core.stdout is not None
    return core.stdout.readline()


def all_gone(descriptors: list[int], *, within_s: float) -> bool:
    """Whether the processes of the pidfds *descriptors* end in time."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    left = set(descriptors)
    while left:
        ready = poll.poll(within_s * 1000)
        if not ready:
            return False
        for descriptor, _ in ready:
            poll.unregister(descriptor)
            left.discard(descriptor)
            os.close(descriptor)
    return True


@pytest.mark.parametrize("victim", ["core", "zygote"])
def test_nothing_outlives_a_kill(tmp_path: Path, victim: str) -> None:
    with running(tmp_path, CORE) as core:
        pids = json.loads(first_line(core))
        descriptors = [os.pidfd_open(pid) for pid in pids]
        os.kill(core.pid if victim == "core" else pids[0], signal.SIGKILL)

        assert all_gone(descriptors, within_s=1.0)
        assert core.wait(timeout=5) == (-signal.SIGKILL if victim == "core" else 17)


def test_a_refused_fork_is_the_callers_error_and_the_zygote_lives_on(tmp_path: Path) -> None:
    with running(tmp_path, REFUSING) as core:
        assert core.stdout is not None
        refused, after = core.stdout.read().splitlines()

    assert "cannot fork a child" in refused
    assert after == "exit code 9"
