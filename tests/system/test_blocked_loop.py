"""A blocked loop of a real service, and of a real core: named with plugin and line, and nobody is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparkd.testing import Node, short_folder
from sparkd.testing.node import free_port
from tests.system.watching import plugin, runs, scrape, service, until

BODY = """\
task_status.started()
while True:
    await anyio.sleep(0.3)
    time.sleep(0.25)  # here
"""


@pytest.fixture
def node() -> Iterator[Node]:
    with short_folder() as folder:
        made = Node("home", folder, f'[node]\nname = "home"\nmetrics_listen = "127.0.0.1:{free_port()}"\n').prepare()
        made.start()
        try:
            yield made
        finally:
            made.stop()


def test_a_service_that_blocks_its_loop_is_named_and_lives(node: Node) -> None:
    file = node.plugins / "it.py"
    file.write_text(plugin(BODY))
    pid = runs(node, "it")["pid"]
    seen = until(lambda: service(node, "it"), lambda found: (found.get("blocked") or {"count": 0})["count"] >= 3)

    blocked = seen["blocked"]
    assert (blocked["file"], "# here" in file.read_text().splitlines()[blocked["line"] - 1]) == (str(file), True)
    assert 0.2 <= blocked["last_s"] <= 1.0
    assert (seen["pid"], seen["restarts"], seen["state"]) == (pid, 0, "running")

    address = node.config.split('"')[3]
    assert 'sparkd_loop_blocks_total{name="it",service="core"}' in scrape(address)
    told = [line["text"] for line in node.call("logs.tail", service="it") if line["text"].startswith("loop blocked")]
    assert len(told) == 1  # however often it happens
    assert f"{file}:{blocked['line']}" in told[0]


def test_one_that_does_not_is_not_named(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin("task_status.started()\nwhile True:\n    await anyio.sleep(0)"))
    (node.plugins / "other.py").write_text(plugin(BODY, name="other"))
    until(lambda: service(node, "other"), lambda found: (found.get("blocked") or {"count": 0})["count"] >= 3)

    assert service(node, "it")["blocked"] is None
    assert node.call("node.status")["core_blocked"] is None
