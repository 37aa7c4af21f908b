"""How a daemon starts and ends: what systemd hears, how long it takes, what it leaves, what it finds."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.testing import Node, descendants
from tests.system.watching import BUSY, QUIET, Systemd, end, exists, is_root, plugin, runs, service, until

STUBBORN = """\
task_status.started()
while True:
    try:
        await anyio.sleep_forever()
    except BaseException:
        ctx.log.info("no, I stay")
"""
CONFIG = '[node]\nname = "lone"\nmetrics_listen = ""\n'


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    """A node that is prepared, and is not running yet."""
    node = Node("lone", folder, CONFIG).prepare()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def systemd(node: Node) -> Iterator[Systemd]:
    stand_in = Systemd(node)
    yield stand_in
    stand_in.close()


def test_systemd_hears_ready_status_and_stopping(node: Node, systemd: Systemd) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET))
    begun = time.monotonic()
    node.start(ready=False)
    systemd.hears("READY=1")
    assert time.monotonic() - begun < 2.0
    assert node.process is not None

    assert systemd.hears("STATUS=") == "STATUS=1 of 1 services run"
    assert systemd.hears("MAINPID=") == f"MAINPID={node.process.pid}"
    code, _ = end(node, limit_s=5)
    assert code == 0
    said = systemd.lines()
    assert "STOPPING=1" in said
    assert "READY=1" not in said[said.index("STOPPING=1") :]


def test_a_broken_service_does_not_hold_ready_and_is_told_in_status(node: Node, systemd: Systemd) -> None:
    (node.plugins / "good.py").write_text(plugin(QUIET, name="good"))
    (node.plugins / "bad.py").write_text(plugin("raise ValueError('no')", name="bad"))
    (node.plugins / "worse.py").write_text("raise ValueError('no')\n")
    node.start(ready=False)
    systemd.hears("READY=1")

    assert systemd.hears("STATUS=1 of 3 services run; bad ")
    assert "worse broken" in systemd.hears("STATUS=1 of 3 services run; bad ")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_time_though_plugins_do_not_want_to(node: Node, signum: signal.Signals) -> None:
    (node.plugins / "stubborn.py").write_text(plugin(STUBBORN, name="stubborn"))
    (node.plugins / "busy.py").write_text(plugin(BUSY, name="busy"))
    (node.plugins / "good.py").write_text(plugin(QUIET, name="good"))
    node.start()
    assert node.process is not None
    below = descendants(node.process.pid)
    assert len(below) == 4
    time.sleep(0.4)  # until busy is busy
    begun = time.monotonic()
    node.process.send_signal(signum)

    assert node.process.wait(10) == 0
    assert time.monotonic() - begun < 5.0
    assert not [pid for pid in below if exists(pid)]


def test_it_ends_in_time_while_it_starts(node: Node) -> None:
    (node.plugins / "never.py").write_text(plugin("await anyio.sleep_forever()", name="never"))
    (node.plugins / "hangs.py").write_text("while True:\n    pass\n")
    node.start(ready=False)
    until(node.socket_path.exists, bool)
    code, seconds = end(node, limit_s=10)

    assert code == 0
    assert seconds < 5.0


def test_all_that_is_wrong_with_the_config_is_printed_and_the_code_is_78(node: Node) -> None:
    node.config_file.write_text('[node]\nnmae = "x"\n[bus]\nhigh_water_messages = 1\n[rcp]\n')
    node.start(ready=False)
    assert node.process is not None

    assert node.process.wait(10) == 78
    words = node.last_words()
    assert "did you mean 'name'?" in words
    assert "high_water_messages: 10 to" in words
    assert "did you mean 'rpc'?" in words
    assert "Traceback" not in words


def test_a_second_daemon_says_who_is_there_and_disturbs_nobody(lone: Node) -> None:
    assert lone.process is not None
    second = Node("second", lone.root, lone.config)
    second.start(ready=False)
    assert second.process is not None

    assert second.process.wait(10) == 78
    assert f"a daemon runs here already (pid {lone.process.pid})" in second.last_words()
    assert lone.call("node.version")


@pytest.mark.parametrize("victim", ["core", "zygote"])
def test_no_child_outlives_a_kill_by_more_than_a_second(node: Node, victim: str) -> None:
    for name, body in (("busy", BUSY), ("good", QUIET), ("stubborn", STUBBORN)):
        (node.plugins / f"{name}.py").write_text(plugin(body, name=name))
    node.start()
    process = node.process
    assert process is not None
    below = descendants(process.pid)
    zygote = next(pid for pid in below if len(descendants(pid)) == 3)
    time.sleep(0.4)  # until busy is busy
    os.kill(process.pid if victim == "core" else zygote, signal.SIGKILL)
    begun = time.monotonic()
    left = until(lambda: [pid for pid in below if exists(pid)], lambda left: not left, limit_s=3)

    assert not left
    assert time.monotonic() - begun < 1.0
    code = process.wait(5)
    assert code == (-signal.SIGKILL if victim == "core" else 75)


def test_it_starts_on_what_a_killed_daemon_left(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET))
    node.start()
    first = node.call("node.status")
    node.kill()
    assert {"bus.pub", "bus.sub", "calls", "sparkd.sock", "core.pid"} <= {p.name for p in (node.root / "run").iterdir()}
    node.start()

    again = node.call("node.status")
    assert again["node_id"] == first["node_id"]
    assert service(node, "it")["state"] == "running"


def test_the_lock_is_not_kept_by_anything_it_starts(node: Node) -> None:
    """A plugin that leaves a process of its own behind must not keep the next daemon out."""
    leave = "import subprocess\nsubprocess.Popen(['sleep', '30'], close_fds=False, start_new_session=True)\n"
    (node.plugins / "it.py").write_text(plugin(leave + QUIET))
    node.start()
    node.stop()

    with (node.root / "run" / "core.pid").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_folders_that_cannot_be_made_are_told(node: Node) -> None:
    (node.root / "run").rmdir()
    (node.root / "run").write_text("a file is in the way")
    node.start(ready=False)
    assert node.process is not None

    assert node.process.wait(10) not in (0, None)
    assert str(node.root / "run") in node.last_words()
    assert "Traceback" not in node.last_words()


@pytest.mark.skipif(not is_root(), reason="a small file system can be mounted only by root")
def test_on_a_full_disk_it_stays_up_and_says_so(node: Node) -> None:
    node.config_file.write_text(CONFIG + "[plugins.node-telemetry]\ninterval_s = 0.1\n")
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(node.state)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        node.start()
        runs(node, "node-telemetry")
        stuff = node.state / "stuff"
        fill(stuff)
        found = until(
            lambda: service(node, "node-telemetry"), lambda s: s["state"] not in ("running", "starting"), limit_s=20
        )
        assert "make room on this disk" in found["reason"] + found["remedy"]
        stuff.unlink()
        runs(node, "node-telemetry", limit_s=30)
        node.stop()
    finally:
        node.stop()
        subprocess.run(["/bin/umount", "-l", str(node.state)], check=True)


def fill(file: Path) -> None:
    """Take all the room that is left."""
    with file.open("ab", buffering=0) as out:
        try:
            while True:
                out.write(bytes(1024))
        except OSError:
            return
