"""The flight recorder of a whole daemon: what it shows, what is left after a kill, what the commands print."""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.main import main
from sparkd.recorder import Recorded
from sparkd.testing import Node, free_port
from tests.system.watching import plugin, runs, until

WRITE = """\
path = ctx.state_dir / "blob"
with path.open("wb") as out:
    out.write(os.urandom(4 << 20))
    out.flush()
    os.fsync(out.fileno())
task_status.started()
await anyio.sleep_forever()
"""


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    text = f'[node]\nname = "lone"\nmetrics_listen = ""\nstate_dir = "{folder}/state"\nruntime_dir = "{folder}/run"\n'
    node = Node("lone", folder, text).prepare()
    (node.plugins / "writer.py").write_text(plugin(WRITE, name="writer"))
    try:
        yield node.start()
    finally:
        node.stop()


def now(node: Node, name: str) -> dict[str, Any]:
    found = node.call("recorder.now")["services"]
    return next((one for one in found if one["name"] == name), {})


def written(node: Node, name: str = "writer") -> int:
    found = node.call("recorder.totals")["services"]
    return int(next((one["ever"]["written"] for one in found if one["name"] == name), 0))


def points(node: Node, service: str, metric: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = node.call("recorder.history", service=service, metric=metric, since_s=60)["points"]
    return found


def sparkctl(node: Node, *words: str) -> int:
    return main(["--config", str(node.config_file), "--socket", str(node.socket_path), *words])


def counts_writes(node: Node) -> bool:
    """Whether the kernel counts writes where the state is: not on tmpfs."""
    return written(node) > 0


def test_a_service_is_seen_and_keeps_its_totals_over_restarts_and_a_kill_of_the_daemon(node: Node) -> None:
    runs(node, "writer")
    seen = until(lambda: now(node, "writer"), lambda one: one.get("state") == "running" and one["rss"])
    assert seen["processes"] == 1
    assert seen["fds"] > 3
    if not counts_writes(node):
        pytest.skip("the state lies on a file system without a disk: the kernel counts no writes to it")
    first = until(lambda: written(node), lambda count: count >= 4 << 20)

    node.call("plugins.restart", name="writer")
    second = until(lambda: written(node), lambda count: count >= first + (4 << 20))

    node.kill()
    node.start()
    assert "the run before did not end by its own orders" in node.last_words()
    assert (node.root / "run" / "recorder" / "last-crash").exists()
    until(lambda: written(node), lambda count: count >= second + (4 << 20))

    assert node.stop() == 0
    node.start()
    assert node.last_words().count("did not end by its own orders") == 1
    assert written(node) >= second + (4 << 20)


def test_the_ring_goes_on_after_a_kill_and_the_hole_is_shown(node: Node) -> None:
    until(lambda: points(node, "core", "rss"), lambda found: len(found) >= 2)
    node.kill()
    killed = time.time()
    until(time.time, lambda at: at > killed + 3.1)
    node.start()
    found = until(
        lambda: node.call("recorder.history", service="core", metric="rss", since_s=60), lambda found: found["holes"]
    )
    (hole,) = found["holes"]
    assert hole[0] <= killed + 1 <= hole[1]
    assert found["points"][0]["at"] < killed
    assert found["points"][-1]["at"] > killed


def test_the_commands_show_it_also_when_the_daemon_is_dead(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    runs(node, "writer")
    until(lambda: points(node, "writer", "cpu"), lambda found: len(found) >= 2)
    assert sparkctl(node, "top", "--once", "--sort", "rss") == 0
    shown = capsys.readouterr().out
    assert shown.index("core") < shown.index("writer"), "the core is the largest"
    assert sparkctl(node, "--json", "top") == 0
    assert {"core", "zygote", "writer"} == {one["name"] for one in json.loads(capsys.readouterr().out)["services"]}
    assert sparkctl(node, "usage") == 0
    assert "WRITTEN TODAY" in capsys.readouterr().out

    node.kill()
    assert sparkctl(node, "history", "writer", "--csv") == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert float(rows[-1]["mean"]) > 1 << 20
    assert "this is what it left" in printed.err
    assert sparkctl(node, "history", "core", "cpu", "--since", "5m") == 0
    assert "core cpu: percent of one processor" in capsys.readouterr().out
    assert sparkctl(node, "history", "writer", "weight") == 1
    assert "there is no metric 'weight'" in capsys.readouterr().err
    assert sparkctl(node, "history", "reader") == 1
    assert "there is: core, writer, zygote" in capsys.readouterr().err

    node.start()
    assert sparkctl(node, "--json", "history", "writer", "rss", "--last-crash") == 0
    assert json.loads(capsys.readouterr().out)["points"]
    assert sparkctl(node, "history", "reader") == 1
    assert "nothing is recorded of 'reader'" in capsys.readouterr().err


def test_an_orderly_end_leaves_everything_on_disk(node: Node) -> None:
    until(lambda: points(node, "writer", "rss"), lambda found: len(found) >= 2)
    node.stop()
    (node.root / "run" / "recorder" / "ring").unlink()
    left = Recorded(node.root / "run", node.state).history("writer", "rss", since_s=600)
    assert left.points
    assert left.points[-1].high > 1 << 20


def test_it_can_be_switched_off(folder: Path) -> None:
    text = '[node]\nname = "lone"\nmetrics_listen = ""\n[recorder]\nenabled = false\n'
    node = Node("lone", folder, text).prepare()
    try:
        node.start()
        with pytest.raises(Exception, match="the flight recorder does not run"):
            node.call("recorder.now")
        assert not (node.state / "recorder").exists()
    finally:
        node.stop()


def test_prometheus_is_told_too(folder: Path) -> None:
    port = free_port()
    node = Node("lone", folder, f'[node]\nname = "lone"\nmetrics_listen = "127.0.0.1:{port}"\n').prepare()
    try:
        node.start()
        page = until(lambda: scraped(port), lambda page: 'sparkd_process_cpu_seconds_total{name="core"' in page)
        assert 'sparkd_process_memory_bytes{name="zygote"' in page
        assert "sparkd_disk_written_bytes_total" in page
        assert "sparkd_tcp_sent_bytes_total" in page
    finally:
        node.stop()


def scraped(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return str(answer.read().decode())
