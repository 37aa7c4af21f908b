"""Two daemons that know nothing of each other, and the two commands that change that."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.main import main
from sparkd.errors import CallError
from sparkd.testing import Node
from sparkd.testing.node import free_port
from tests.system.watching import until

CONFIG = '[node]\nname = "{name}"\nmetrics_listen = ""\n'
FOLDERS = 'runtime_dir = "{0}/run"\nstate_dir = "{0}/state"\ncache_dir = "{0}/cache"\n'


def make(root: Path, name: str, *, more: str = "") -> Node:
    folder = root / name[0]
    return Node(name, folder, CONFIG.format(name=name) + FOLDERS.format(folder) + more).prepare()


def links(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.call("node.status")["links"]
    return found


def test_invite_and_join_link_two_running_nodes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    cloud = make(folder, "hub", more=f'[link]\nlisten = "127.0.0.1:{port}"\n').start()
    edge = make(folder, "living-room").start()
    try:
        words = ["--site", "home", "--receive", "edge", "--receive", "system.health"]
        assert main(["--config", str(cloud.config_file), "--json", "invite", "living-room", *words]) == 0
        said = capsys.readouterr()
        code = json.loads(said.out)["code"]
        monkeypatch.setattr("sys.stdin", io.StringIO(code + "\n"))
        assert main(["--config", str(edge.config_file), "join"]) == 0

        until(lambda: links(edge), lambda found: found and found[0]["connected"])
        until(lambda: links(cloud), lambda found: found and found[0]["connected"])
        assert edge.call("hub/core:node.status")["node"] == "hub"
        with pytest.raises(CallError) as refusal:
            edge.call("hub/core:node.version")
        assert refusal.value.kind == "denied", "what it may call stands in the file that invite wrote"

        monkeypatch.setattr("sys.stdin", io.StringIO(code + "\n"))
        assert main(["--config", str(edge.config_file), "--timeout", "1", "join"]) != 0, "it is good once"
    finally:
        edge.stop()
        cloud.stop()


def test_a_node_that_does_not_listen_cannot_invite(lone: Node, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(lone.config_file), "invite", "other"]) != 0
    assert "does not listen" in capsys.readouterr().err


def test_a_code_for_another_node_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = make(folder, "hub", more=f'[link]\nlisten = "127.0.0.1:{free_port()}"\n')
    guest = make(folder, "garage")
    assert main(["--config", str(hub.config_file), "--json", "invite", "kitchen"]) == 0
    code = json.loads(capsys.readouterr().out)["code"]
    monkeypatch.setattr("sys.stdin", io.StringIO(code + "\n"))

    assert main(["--config", str(guest.config_file), "join"]) != 0
    assert "the invitation is for 'kitchen'" in capsys.readouterr().err
    assert not (guest.config_file.parent / "sparkd.d").exists()
    assert not (guest.state / "keys").exists()
