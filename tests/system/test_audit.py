"""The audit trail on whole daemons: who did what, through the socket and the link, and what a kill leaves of it."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.audit import read_tail, verify
from sparkd.errors import CallError
from sparkd.testing import Node, Pair, prepare, running
from tests.rpc.strangers import NOBODY, Stranger, needs_root
from tests.system.watching import QUIET, plugin, runs, until

CONFIG = """
[node]
name = "here"
metrics_listen = ""
[rpc]
readers = "anyone"
"""


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    made = Node("here", folder, CONFIG).prepare()
    for part in ("", "run"):
        (folder / part).chmod(0o755)
    (made.plugins / "it.py").write_text(plugin(QUIET))
    made.start()
    runs(made, "it")
    try:
        yield made
    finally:
        made.stop()


def trail(node: Node, method: str) -> list[dict[str, Any]]:
    return [line for line in node.call("audit.tail", lines=1000) if line["method"] == method]


def test_who_changed_what_is_recorded_before_the_answer(node: Node) -> None:
    node.call("node.status")
    node.call("plugins.stop", name="it")
    with pytest.raises(CallError):
        node.call("here/core:plugins.stop", name="nothing")

    (stopped,) = trail(node, "plugins.stop")
    assert (stopped["door"], stopped["outcome"], stopped["rule"]) == ("rpc", "ok", "admins")
    assert (stopped["uid"], stopped["gid"], stopped["pid"]) == (os.getuid(), os.getgid(), os.getpid())
    assert stopped["params"] == {"name": "it"}
    assert len(bytes.fromhex(stopped["trace"])) == 16
    assert stopped["took_ms"] > 0
    (failed,) = trail(node, "here/core:plugins.stop")
    assert failed["outcome"] == "invalid-params"
    assert trail(node, "node.status") == [], "what changes nothing is not recorded"
    assert node.call("audit.tail", lines=1)[0]["seq"] == failed["seq"]


@needs_root
def test_refusals_are_recorded_and_a_flood_of_them_is_counted(node: Node) -> None:
    with Stranger(node.socket_path) as nobody:
        assert not nobody.may("plugins.stop", name="it", password="hunter2")
        for _ in range(500):
            assert not nobody.may("config.reload")
        assert not nobody.may("audit.tail"), "what others did is not for readers"

    (refused,) = trail(node, "plugins.stop")
    assert (refused["allowed"], refused["outcome"], refused["uid"]) == (False, "denied", NOBODY)
    assert refused["rule"].startswith("no rule allows it")
    assert refused["params"] == {"name": "it", "password": "(hidden)"}
    assert "hunter2" not in (node.state / "audit" / "00000001.jsonl").read_text()
    assert len(trail(node, "config.reload")) < 15


def test_sparkctl_audit(node: Node) -> None:
    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparkd.cli", "--socket", str(node.socket_path), "audit", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    folder = str(node.state / "audit")
    node.call("plugins.stop", name="it")
    shown = ctl("-n", "5")
    assert shown.returncode == 0
    assert 'plugins.stop {"name": "it"} ok [admins]' in shown.stdout
    whole = ctl("--verify", "--folder", folder)
    assert (whole.returncode, whole.stdout.splitlines()[-1]) == (0, "the trail is whole")
    file = node.state / "audit" / "00000001.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"name":"it"', b'"name":"io"'))
    broken = ctl("--verify", "--folder", folder, "--json")
    assert broken.returncode == 1
    assert "edited" in json.loads(broken.stdout)["problems"][0]


def test_followers_hear_of_each_line(node: Node) -> None:
    command = [sys.executable, "-m", "sparkd.cli", "--socket", str(node.socket_path), "--json", "audit", "-n1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        node.call("plugins.stop", name="it")
        news = json.loads(follower.stdout.readline())
        follower.terminate()
    assert (news["method"], news["seq"]) == ("plugins.stop", first["seq"] + 1)


def test_a_trail_that_cannot_be_written_holds_nothing_up_and_is_said(node: Node) -> None:
    folder = node.state / "audit"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("in the way")

    assert node.call("plugins.stop", name="it")["state"] == "stopped"
    problems = node.call("node.status")["problems"]
    assert any("audit trail cannot be written" in problem for problem in problems), problems

    folder.unlink()
    node.call("plugins.start", name="it")
    assert until(lambda: node.call("node.status")["problems"], lambda found: not found) == []
    assert [entry.method for entry in read_tail(folder, 2)] == ["plugins.stop", "plugins.start"]


def test_what_was_answered_is_recorded_through_any_kill(node: Node) -> None:
    answered = 0
    for round_ in range(4):
        for _ in range(3 + round_):
            node.call("plugins.rescan")
            answered += 1
        node.kill()
        assert verify(node.state / "audit").problems == []
        recorded = [entry for entry in read_tail(node.state / "audit", 1000) if entry.method == "plugins.rescan"]
        assert len(recorded) == answered
        node.start()
    started = [entry for entry in read_tail(node.state / "audit", 1000) if entry.method == "audit.started"]
    assert [entry.params.get("clean") for entry in started] == [None, False, False, False, False]
    node.stop()
    assert read_tail(node.state / "audit", 1)[0].method == "audit.stopped"


@pytest.fixture
def linked(folder: Path) -> Iterator[Pair]:
    prepared = prepare(folder)
    file = prepared.edge.config_file
    file.write_text(file.read_text().replace('"command-runner.run"', '"command-runner.run", "plugins.rescan"'))
    with running(prepared) as pair:
        yield pair


def test_calls_of_other_nodes_are_recorded(linked: Pair) -> None:
    pair = linked
    for peer in (pair.edge, pair.cloud):
        until(lambda peer=peer: peer.call("node.status")["links"], lambda links: links[0]["connected"])  # type: ignore[misc] # binds it
    with pytest.raises(CallError):
        pair.edge.call("primecore/core:plugins.stop", name="edge-ingest")
    (asked,) = trail(pair.edge, "primecore/core:plugins.stop")
    assert (asked["door"], asked["outcome"], asked["allowed"]) == ("rpc", "denied", True)
    (refused,) = trail(pair.cloud, "core:plugins.stop")
    assert (refused["door"], refused["node"], refused["allowed"]) == ("link", "control-pc", False)
    assert "[link.peers.control-pc] calls" in refused["rule"]
    assert refused["params"] == {"name": "edge-ingest"}
    assert refused["trace"] == asked["trace"]

    pair.cloud.call("control-pc/core:plugins.rescan")
    (ran,) = trail(pair.edge, "core:plugins.rescan")
    assert ran["outcome"] == "ok"
    assert (ran["door"], ran["node"]) == ("link", "primecore")
    assert ran["rule"] == "link.peers.primecore calls"
    assert trail(pair.cloud, "ingest.append") == [], "what carries records is left out"
    assert all(b.seq == a.seq + 1 for a, b in itertools.pairwise(read_tail(pair.edge.state / "audit", 100)))
