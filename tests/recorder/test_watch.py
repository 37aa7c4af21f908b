"""What the kernel says of real processes, and whose it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparkd.recorder import tcp
from sparkd.recorder.proc import Process, Spent, beneath
from sparkd.recorder.watch import CORE, ZYGOTE, Estate, Watch

MB = 1 << 20
WORKER = """\
import os, subprocess, sys
for line in sys.stdin:
    what, _, more = line.strip().partition(" ")
    if what == "write":
        path, count = more.split()
        with open(path, "wb", buffering=0) as out:
            out.write(bytes(int(count)))
            os.fsync(out.fileno())
    elif what == "child":
        subprocess.run([sys.executable, "-c", f"open({more!r}, 'wb').write(bytes(3 << 20))"], check=True)
    elif what == "end":
        break
    print("done", flush=True)
"""


class Worker:
    """A process that does as it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def does(self, order: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def worker() -> Iterator[Worker]:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            one = Worker(process)
            one.does("nothing")  # until then it may still be this process, or an interpreter that has just begun
            yield one
        finally:
            process.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file on a file system whose writes the kernel counts."""
    before = written(os.getpid())
    (tmp_path / "probe").write_bytes(bytes(MB))
    if written(os.getpid()) - before < MB:
        pytest.skip("the kernel does not count writes to this file system, which has no disk")
    return tmp_path / "file"


def written(pid: int) -> int:
    process = Process(pid)
    try:
        return process.look().spent.write
    finally:
        process.close()


def test_what_a_service_writes_is_counted_once_with_its_children_and_its_last_second(disk: Path) -> None:
    with worker() as one:
        watch = Watch(core=os.getpid(), zygote=os.getpid())  # this process reaps it, as the zygote would
        watch.look({"it": one.pid})
        one.does(f"write {disk} {2 * MB}")
        seen = [watch.look({"it": one.pid})["it"]["write"]]
        one.does(f"child {disk}")
        seen.append(watch.look({"it": one.pid})["it"]["write"])
        assert seen[0] == pytest.approx(2 * MB, abs=MB // 8)
        assert seen[1] == pytest.approx(3 * MB, abs=MB // 8)

        one.does(f"write {disk}-late {4 * MB}")
        one.process.kill()
        one.process.wait()
        found = watch.look({})
        assert found["it"]["write"] == pytest.approx(4 * MB, abs=MB // 8)
        assert found[ZYGOTE].get("write", 0) == 0
        assert watch.look({}).get("it") is None
        watch.close()


def test_gauges_are_of_the_whole_tree() -> None:
    with worker() as one:
        watch = Watch(core=os.getpid(), zygote=os.getpid())
        found = watch.look({"it": one.pid})["it"]
        assert found["processes"] == 1
        assert found["rss"] > MB
        assert found["fds"] >= 3
        assert found["threads"] == 1
        assert one.pid in beneath([os.getpid()])[os.getpid()]
        watch.close()


def test_a_service_that_runs_as_another_process_begins_anew_and_leaks_no_descriptor() -> None:
    watch = Watch(core=os.getpid(), zygote=os.getpid())
    watch.look({})
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count
    for _ in range(5):
        with worker() as one:
            found = watch.look({"it": one.pid})
            assert found["it"]["processes"] == 1
    for _ in range(3):
        watch.look({})
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - a count
    watch.close()


def test_an_inheritance_waits_for_its_heir_whichever_is_seen_first() -> None:
    late = Estate()
    assert late.settle(Spent(0, 0, 100), {}) == (ZYGOTE, Spent())
    assert late.settle(Spent(0, 0, 600), {}) == (ZYGOTE, Spent())
    assert late.settle(Spent(0, 0, 600), {"it": Spent(0, 0, 450)}) == ("it", Spent(0, 0, 50))

    early = Estate()
    early.settle(Spent(0, 0, 100), {})
    assert early.settle(Spent(0, 0, 100), {"it": Spent(0, 0, 450)}) == (ZYGOTE, Spent())
    assert early.settle(Spent(0, 0, 600), {}) == ("it", Spent(0, 0, 50))

    nobodys = Estate()
    nobodys.settle(Spent(0, 0, 100), {})
    found = [nobodys.settle(Spent(0, 0, 130), {}) for _ in range(6)]
    assert sum(spent.write for _, spent in found) == 30
    assert {name for name, _ in found} == {ZYGOTE}


def test_the_processor_time_of_this_process_is_counted() -> None:
    watch = Watch(core=os.getpid(), zygote=1)
    watch.look({})
    burn(0.3)
    assert 200_000 <= watch.look({})[CORE]["cpu_us"] <= 1_000_000
    watch.close()


def burn(cpu_s: float) -> None:
    begun = time.process_time()
    while time.process_time() - begun < cpu_s:
        sum(range(1000))


def test_the_kernel_counts_what_a_connection_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = socket.create_connection(listening.getsockname())
        receiver, _ = listening.accept()
        with sender, receiver:
            sender.sendall(bytes(100_000))
            assert len(receiver.recv(100_000, socket.MSG_WAITALL)) == 100_000
            inode = os.fstat(sender.fileno()).st_ino
            count = seen(lambda: tcp.acknowledged(also_here=True).get(inode, 0), 100_000)
            assert 100_000 <= count <= 100_010
            assert inode not in tcp.acknowledged(), "what stays on the machine is not sent"
            assert tcp.sockets_of([os.getpid()])[inode] == os.getpid()


def seen(look: Callable[[], int], least: int) -> int:
    """Return what *look* returns once it is at least *least*: an acknowledgement comes a moment later."""
    deadline = time.monotonic() + 5
    while (found := look()) < least and time.monotonic() < deadline:
        pass
    return found
