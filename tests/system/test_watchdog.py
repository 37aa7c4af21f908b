"""Hung services of a real daemon: each caught within its limit and two seconds, its place named, killed, back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sparkd.testing import Node, short_folder
from sparkd.testing.node import free_port
from tests.system.watching import plugin, runs, scrape, service, until

LIMIT_S = 1.0
GRACE_S = 2.0 + max(0.0, os.getloadavg()[0] / (os.cpu_count() or 1) - 1)
"""On a machine that has more to do than it can, a second more for each such amount of work."""
HEAD = "import ctypes, threading\nfrom pathlib import Path\n"
ONCE = """\
task_status.started()
await anyio.sleep(0.3)
mark = Path({mark!r})
if mark.exists():
    await anyio.sleep_forever()
mark.write_text(str(time.time()))
"""
"""Hangs in its first run only, and says when."""


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        port = free_port()
        config = f'[node]\nname = "home"\nmetrics_listen = "127.0.0.1:{port}"\n[plugins.it]\nwatchdog_s = {LIMIT_S}\n'
        made = Node("home", folder, config).prepare()
        made.start()
        try:
            yield made
        finally:
            made.stop()


def hang(node: Node, deed: str, *, more: str = "") -> tuple[dict[str, Any], float]:
    """Drop in a plugin that does *deed* once; return its status after, and how long after the hang it was caught."""
    mark = node.root / "mark"
    body = ONCE.format(mark=str(mark)) + deed
    (node.plugins / "it.py").write_text(plugin(body, more=HEAD + more))
    runs(node, "it")
    found = until(lambda: service(node, "it"), lambda seen: seen.get("last_failure"), limit_s=LIMIT_S + 20)
    return found, found["last_failure"]["at"] - float(mark.read_text())


LOCK = "lock = threading.Lock()\nlock.acquire()\n"


@pytest.mark.parametrize(
    ("deed", "more", "at"),
    [
        ("while True:\n    pass", "", ("while True:", "    pass")),
        ("time.sleep(3600)", "", ("time.sleep(3600)",)),
        ("ctypes.PyDLL(None).sleep(3600)", "", ("ctypes.PyDLL",)),
        ("with lock:\n    pass", LOCK, ("with lock:",)),
    ],
    ids=["busy", "sleep", "holds-the-gil", "deadlock"],
)
@pytest.mark.timeout(60)
def test_a_hang_is_caught_named_and_ended(node: Node, deed: str, more: str, at: tuple[str, ...]) -> None:
    found, after_s = hang(node, deed, more=more)
    failure = found["last_failure"]

    assert LIMIT_S <= after_s <= LIMIT_S + GRACE_S
    assert f"did not answer for {LIMIT_S:g} s" in failure["reason"]
    assert "to_thread" in failure["remedy"]
    assert failure["file"].endswith("it.py")
    line = (node.plugins / "it.py").read_text().splitlines()[failure["line"] - 1].strip()
    assert line.startswith(tuple(text.strip() for text in at))
    assert any("thread 0x" in text for text in failure["stack"])
    assert any("it.py" in text for text in failure["stack"])

    back = runs(node, "it")
    assert (back["restarts"], back["hangs"], back["reason"]) == (1, 1, "")
    assert back["since"] - float((node.root / "mark").read_text()) <= LIMIT_S + GRACE_S + 2
    assert any("it.py" in line["text"] for line in node.call("logs.tail", service="it"))
    assert 'sparkd_service_hangs_total{name="it",service="core"} 1.0' in scrape(_metrics(node))


def _metrics(node: Node) -> str:
    return next(line for line in node.config.splitlines() if "metrics" in line).split('"')[1]


@pytest.mark.timeout(60)
def test_a_stopped_process_is_named_as_such_with_the_line_it_was_at(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin("task_status.started()\nwhile True:\n    await anyio.sleep(0.1)"))
    pid = runs(node, "it")["pid"]
    begun = time.time()
    os.kill(pid, signal.SIGSTOP)
    found = until(lambda: service(node, "it"), lambda seen: seen.get("last_failure"), limit_s=20)["last_failure"]

    assert found["at"] - begun <= LIMIT_S + GRACE_S
    assert "its process is stopped by a signal (SIGSTOP)" in found["reason"]
    assert any("thread 0x" in text for text in found["stack"])
    assert runs(node, "it")["pid"] != pid


@pytest.mark.timeout(60)
def test_a_thread_that_holds_the_interpreter_is_named_though_the_loop_itself_waits(node: Node) -> None:
    more = "def hold():\n    ctypes.PyDLL(None).sleep(3600)\n"
    found, after_s = hang(node, "await anyio.to_thread.run_sync(hold)", more=more)
    failure = found["last_failure"]

    assert after_s <= LIMIT_S + GRACE_S
    assert failure["file"].endswith("it.py")
    assert "PyDLL" in (node.plugins / "it.py").read_text().splitlines()[failure["line"] - 1]


@pytest.mark.timeout(60)
def test_a_core_that_was_stopped_blames_no_service(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin("task_status.started()\nawait anyio.sleep_forever()"))
    pid = runs(node, "it")["pid"]
    assert node.process is not None
    os.kill(pid, signal.SIGSTOP)  # so that a ping is under way when the core stops
    time.sleep(LIMIT_S / 2)
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(LIMIT_S * 2)
    os.kill(pid, signal.SIGCONT)
    node.process.send_signal(signal.SIGCONT)
    time.sleep(LIMIT_S * 2)

    seen = service(node, "it")
    assert (seen["pid"], seen["restarts"], seen["state"]) == (pid, 0, "running")
