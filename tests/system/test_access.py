"""Who may call what, on a whole daemon: real users, rules that change while clients are connected, the folder."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.testing import Node, short_folder
from tests.rpc.strangers import NOBODY, Stranger, needs_root
from tests.system.watching import QUIET, plugin, runs, write_drop_in

pytestmark = needs_root

CONFIG = """
[node]
name = "here"
metrics_listen = ""
[access.rules.kiosk]
users = ["nobody"]
groups = ["4711"]
calls = ["bus.subscribe:edge.ai", "node.status", "plugins.stop"]
"""


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as root:
        made = Node("here", root, CONFIG).prepare()
        root.chmod(0o755)
        (root / "run").chmod(0o750)
        (made.plugins / "it.py").write_text(plugin(QUIET))
        made.start()
        try:
            yield made
        finally:
            made.stop()


def stranger(node: Node, **who: Any) -> Stranger:
    return Stranger(node.socket_path, **who)


def test_who_is_in_a_rule_may_and_others_may_not(node: Node) -> None:
    runs(node, "it")
    with stranger(node) as nobody, stranger(node, uid=1235, groups=[4711]) as member, stranger(node, uid=1235) as other:
        assert nobody.ask("node.status")["result"]["node"] == "here"
        assert member.ask("plugins.stop", name="it")["result"]["state"] == "stopped"
        assert not nobody.may("plugins.start", name="it")
        assert not nobody.may("config.show")
        assert [other.may(method) for method in ("node.status", "rpc.discover", "logs.tail")] == [False] * 3
        assert nobody.ask("bus.subscribe", topics=["edge.ai.inference"])["result"] == {"stream": 1}
        assert not nobody.may("bus.subscribe", topics=["edge.ai", "system"])
        assert not nobody.may("bus.subscribe", topics=[])
        assert not nobody.may("bus.last", topic="edge.ai")
        params = '{"topics": ["system"], "topics": ["edge.ai"]}'
        nobody.send(f'{{"jsonrpc": "2.0", "id": 1, "method": "bus.subscribe", "params": {params}}}')
        assert nobody.read()["result"] == {"stream": 2}, "what is judged is what is asked for"


def test_everybody_learns_who_they_are_and_why(node: Node) -> None:
    with stranger(node) as nobody:
        me = nobody.ask("access.me")["result"]
        assert (me["uid"], me["user"], me["rules"], me["admin"]) == (NOBODY, "nobody", ["kiosk"], False)
        assert me["calls"]["node.status"] == "access.rules.kiosk"
        assert "plugins.start" not in me["calls"]
        told = nobody.ask("access.explain", method="bus.subscribe", topics=["edge.ai"])["result"]
        assert (told["allowed"], told["rule"]) == (True, "access.rules.kiosk")
        assert not nobody.may("access.explain", method="node.status", user="root")
    told = node.call("access.explain", method="plugins.start", user="nobody")
    assert not told["allowed"]
    assert 'calls = ["plugins.start"]' in told["remedy"]


def test_rules_that_change_hold_at_once_for_who_is_connected(node: Node) -> None:
    with stranger(node) as nobody:
        assert nobody.ask("bus.subscribe", topics=["edge.ai"])["result"] == {"stream": 1}
        write_drop_in(node, '[access.rules.no-bus]\nusers = ["nobody"]\ndeny = ["bus.*"]\n')
        assert "access" in node.call("config.reload")
        end = nobody.read()
        assert end["method"] == "stream.end"
        assert end["params"]["error"]["data"]["rule"] == "[access.rules.no-bus] deny = 'bus.*'"
        assert not nobody.may("bus.subscribe", topics=["edge.ai"])
        assert nobody.may("node.status")
        assert node.call("node.status")["problems"] == []


def test_the_socket_is_closed_when_no_rule_lets_others_in_any_more(node: Node) -> None:
    with stranger(node) as nobody:
        node.config_file.write_text(CONFIG.partition("[access")[0])
        node.call("config.reload")
        assert not nobody.may("node.status"), "it is connected still, and may nothing"
    with pytest.raises(PermissionError):
        stranger(node)
    assert stat.S_IMODE(node.socket_path.stat().st_mode) == 0o660


def test_nothing_but_the_socket_is_open_in_the_folder_that_others_may_pass(node: Node) -> None:
    runs(node, "it")
    folder = node.socket_path.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o751
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()}
    assert [name for name, mode in modes.items() if mode & 0o007] == ["sparkd.sock"]
    assert not _as_nobody(["ls", str(folder)])
    for name in modes:
        if name != "sparkd.sock":
            assert not _opens(folder / name), f"{name} is closed by its own mode"


def _opens(path: Path) -> bool:
    return _as_nobody(["test", "-r", str(path)]) or _as_nobody(["test", "-w", str(path)])


def _as_nobody(command: list[str]) -> bool:
    done = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
    return done.returncode == 0


def test_sparkctl_access(node: Node) -> None:
    def ctl(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sparkd.cli", "--socket", str(node.socket_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TERM": "dumb"})

    mine = ctl("access")
    assert mine.returncode == 0
    assert "rules for you: admins" in mine.stdout
    refused = ctl("access", "plugins.start", "--user", "nobody")
    assert refused.returncode == 1
    assert "plugins.start: refused; rule: no rule allows it" in refused.stdout
    allowed = ctl("access", "bus.subscribe", "--topic", "edge.ai", "--user", "nobody", "--json")
    assert (allowed.returncode, json.loads(allowed.stdout)["rule"]) == (0, "access.rules.kiosk")
    assert "there is no user 'nobdy'" in ctl("access", "node.status", "--user", "nobdy").stderr
