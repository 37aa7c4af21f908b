"""What the daemon tells systemd's watchdog, and when it does not."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparkd.testing import Node
from tests.system.watching import QUIET, Systemd, plugin, service, until

CONFIG = '[node]\nname = "lone"\nmetrics_listen = ""\n'
INTERVAL_S = 2.0
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207  # linux/ptrace.h
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def systemd(folder: Path) -> Iterator[Systemd]:
    """A stand-in for systemd that wants a sign of life every two seconds, and its node, not started yet."""
    node = Node("lone", folder, CONFIG, environment={"WATCHDOG_USEC": str(int(INTERVAL_S * 1e6))}).prepare()
    stand_in = Systemd(node)
    try:
        yield stand_in
    finally:
        if node.process is not None and node.process.poll() is None:
            node.kill()  # some tests leave it in a state it cannot stop from
        stand_in.close()


@contextmanager
def halted_threads(pid: int, name: str) -> Iterator[None]:
    """Halt the threads called *name* of a process, and no others, as if they hung."""
    threads = [
        int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().startswith(name)
    ]
    assert threads
    for thread in threads:
        for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
            assert libc.ptrace(request, thread, None, None) == 0, os.strerror(ctypes.get_errno())
        os.waitpid(thread, 0x40000000)  # __WALL
    try:
        yield
    finally:
        for thread in threads:
            libc.ptrace(17, thread, None, None)  # PTRACE_DETACH


def started(systemd: Systemd) -> int:
    """Start the node; return its pid once it is well."""
    systemd.node.start(ready=False)
    systemd.hears("READY=1")
    systemd.hears("WATCHDOG=1")
    assert systemd.node.process is not None
    return systemd.node.process.pid


def signs(systemd: Systemd, seconds: float) -> int:
    """Return how many signs of life come within *seconds*."""
    before = systemd.lines().count("WATCHDOG=1")
    time.sleep(seconds)
    return systemd.lines().count("WATCHDOG=1") - before


def test_a_node_that_is_well_gives_a_sign_in_half_the_time(systemd: Systemd) -> None:
    started(systemd)

    assert signs(systemd, 2 * INTERVAL_S) >= 4
    assert systemd.node.call("node.status")["problems"] == []


def test_without_a_watchdog_no_sign_is_given(systemd: Systemd) -> None:
    systemd.node.environment = {k: v for k, v in systemd.node.environment.items() if k != "WATCHDOG_USEC"}
    systemd.node.start(ready=False)
    systemd.hears("READY=1")

    assert signs(systemd, 1.0) == 0
    assert "WATCHDOG=1" not in systemd.said


def test_a_broker_that_hangs_is_told_and_no_sign_is_given(systemd: Systemd) -> None:
    pid = started(systemd)
    with halted_threads(pid, "ZMQbg/IO"):
        line = systemd.hears("STATUS=0 of 0 services run; the core is not well for ")
        assert "bus: no answer within 0.5 s" in line
        assert "rpc socket" not in line
        (problem,) = systemd.node.call("node.status")["problems"]
        assert "bus: no answer" in problem
        assert signs(systemd, INTERVAL_S) == 0
    before = len(systemd.lines())
    systemd.hears("WATCHDOG=1", after=before)
    until(lambda: systemd.node.call("node.status")["problems"], lambda problems: problems == [])
    until(
        systemd.lines,
        lambda said: [one for one in said if one.startswith("STATUS=")][-1] == "STATUS=0 of 0 services run",
    )


def test_a_socket_that_is_gone_is_told_and_no_sign_is_given(systemd: Systemd) -> None:
    started(systemd)
    systemd.node.socket_path.unlink()
    line = systemd.hears("STATUS=0 of 0 services run; the core is not well for ")

    assert "rpc socket: FileNotFoundError" in line
    assert signs(systemd, INTERVAL_S) == 0
    assert "not well" in systemd.node.last_words()


def test_a_socket_that_somebody_else_took_and_does_not_answer_gives_no_sign(systemd: Systemd) -> None:
    started(systemd)
    systemd.node.socket_path.unlink()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(systemd.node.socket_path))
        silent.listen()

        assert "rpc socket: no answer within 0.5 s" in systemd.hears("STATUS=0 of 0 services run; the core is not well")
        assert signs(systemd, INTERVAL_S) == 0


def test_a_core_that_is_stopped_gives_no_sign_and_says_afterwards_that_it_stood(systemd: Systemd) -> None:
    pid = started(systemd)
    os.kill(pid, signal.SIGSTOP)
    systemd.lines()
    assert signs(systemd, INTERVAL_S) == 0
    os.kill(pid, signal.SIGCONT)

    systemd.hears("WATCHDOG=1", after=len(systemd.said))
    assert "event loop stood still" in systemd.node.last_words()


def test_a_socket_full_of_clients_is_no_reason_to_be_killed(systemd: Systemd) -> None:
    systemd.node.config_file.write_text(f"{CONFIG}[rpc]\nmax_connections = 1\n")
    started(systemd)
    with socket.socket(socket.AF_UNIX) as only:
        only.connect(str(systemd.node.socket_path))

        assert signs(systemd, INTERVAL_S) >= 2


def test_a_hung_core_that_is_aborted_says_where_it_stood(systemd: Systemd) -> None:
    pid = started(systemd)
    time.sleep(INTERVAL_S / 8)  # between two signs: a dump of threads that run at the same moment can crash
    os.kill(pid, signal.SIGABRT)
    assert systemd.node.process is not None
    assert systemd.node.process.wait(10) == -signal.SIGABRT

    words = systemd.node.log.read_text()  # a dump of many threads is longer than its last words
    assert "Fatal Python error: Aborted" in words
    assert "daemon/serve.py" in words


def test_more_time_is_asked_for_only_while_a_service_really_starts(systemd: Systemd) -> None:
    slow = plugin("await anyio.sleep(3)\n" + QUIET, name="slow", offer="start_limit_s=60.0")
    (systemd.node.plugins / "slow.py").write_text(slow)
    systemd.node.start(ready=False)

    assert systemd.hears("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=20000000"
    assert "READY=1" not in systemd.said
    systemd.hears("READY=1")
    assert service(systemd.node, "slow")["state"] == "running"
    asked = systemd.said.index("EXTEND_TIMEOUT_USEC=20000000"), systemd.said.index("READY=1")
    assert asked[0] < asked[1]


def test_a_node_whose_services_start_at_once_asks_for_no_more_time(systemd: Systemd) -> None:
    (systemd.node.plugins / "it.py").write_text(plugin(QUIET))
    started(systemd)

    assert not [line for line in systemd.lines() if line.startswith("EXTEND_TIMEOUT")]
