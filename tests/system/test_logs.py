"""What the daemon and its services wrote: how much of it, and what is left when it is down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.testing import Node
from tests.system.watching import plugin, runs, until

TALK = """\
ctx.log.debug("whisper")
ctx.log.info("hello")
task_status.started()
while True:
    ctx.log.debug("whisper again")
    await anyio.sleep(0.05)
"""


@pytest.fixture
def talking(folder: Path) -> Iterator[Node]:
    node = Node("lone", folder, f'[node]\nname = "lone"\nmetrics_listen = ""\nstate_dir = "{folder}/state"\n').prepare()
    (node.plugins / "talker.py").write_text(plugin(TALK, name="talker"))
    try:
        yield node.start()
    finally:
        node.stop()


def said(node: Node, *, text: str = "") -> list[str]:
    return [line["text"] for line in node.call("logs.tail", service="talker", lines=500, text=text)]


def test_the_level_of_one_service_is_set_while_it_runs_and_after_it_is_started_again(talking: Node) -> None:
    runs(talking, "talker")
    assert "hello" in said(talking)
    assert "whisper again" not in said(talking)

    levels = talking.call("logs.set_level", level="debug", service="talker")
    assert levels == {"core": "info", "talker": "debug"}
    until(lambda: said(talking), lambda lines: "whisper again" in lines)

    talking.call("plugins.restart", name="talker")
    until(lambda: said(talking), lambda lines: "whisper" in lines)

    assert talking.call("logs.set_level", level="warning") == {"core": "warning", "talker": "warning"}
    assert talking.call("logs.levels") == {"core": "warning", "talker": "warning"}


def test_a_service_that_is_not_there_is_told_with_the_nearest(
    talking: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(
        ["--config", str(talking.config_file), "--socket", str(talking.socket_path), "log-level", "info", "taker"]
    )
    assert "'talker'" in capsys.readouterr().err


def test_what_a_killed_daemon_said_is_read_from_its_disk(talking: Node, capsys: pytest.CaptureFixture[str]) -> None:
    runs(talking, "talker")
    stored = talking.state / "logs"
    until(lambda: "".join(file.read_text() for file in stored.glob("*")), lambda text: "hello" in text)
    talking.kill()

    words = ["--config", str(talking.config_file), "--socket", str(talking.socket_path), "--json"]
    assert main([*words, "logs", "talker", "--grep", "HELLO"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["text"] for line in shown.out.splitlines()] == ["hello"]
    assert "left on disk" in shown.err

    talking.start()
    assert said(talking, text="hello").count("hello") == 2, "of the run before, and of this one"
