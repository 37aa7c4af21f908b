"""A real daemon whose accelerator fails: refused at first, then lost in mid-run, and back by itself each time."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd import CallError
from sparkd.testing import Node
from sparkd.testing.hailo import Board
from sparkd_plugins.hailo_inference.demo import PICTURES
from tests.plugins.hailo_board import hef_bundle
from tests.system.watching import exists, runs, service, until

NAME = "hailo-inference"
CAT = base64.b64encode((PICTURES / "chelsea.png").read_bytes()).decode()
CONFIG = """\
[node]
name = "lone"
metrics_listen = ""

[plugins.hailo-inference]
backend = "hailo"
bundles = ["{bundle}"]
"""


@pytest.fixture
def board(folder: Path) -> Board:
    made = Board(folder / "board.json")
    made.fail("create", 76)
    return made


@pytest.fixture
def node(folder: Path, board: Board) -> Iterator[Node]:
    bundle = hef_bundle(folder / "bundle")
    node = Node("lone", folder, CONFIG.format(bundle=bundle), environment=board.environment).prepare()
    try:
        yield node.start()
    finally:
        node.stop()


def look(node: Node) -> Any:
    try:
        return node.call("vision.infer", image=CAT)
    except CallError as error:
        return error


def test_a_device_that_is_lost_costs_a_process_and_nothing_more(node: Node, board: Board) -> None:
    refused = until(lambda: service(node, NAME), lambda found: found.get("reason"))
    assert "the driver's version is not the library's" in refused["reason"]
    assert "apt full-upgrade" in refused["remedy"]
    board.heal()
    first = runs(node, NAME, limit_s=30)["pid"]
    seen = look(node)
    assert (seen["backend"], seen["detections"][0]["label"]) == ("hailo", "cat")

    board.fail("complete", 36)
    failed = look(node)
    assert isinstance(failed, CallError)
    assert "its driver failed" in str(failed)
    assert "call again in a few seconds" in str(failed)
    until(lambda: exists(first), lambda there: not there)
    board.heal()

    again = until(lambda: look(node), lambda found: not isinstance(found, CallError), limit_s=30)
    assert again["detections"][0]["label"] == "cat"
    after = service(node, NAME)
    assert after["pid"] != first
    assert after["state"] == "running"
    assert "Traceback" not in node.last_words()
