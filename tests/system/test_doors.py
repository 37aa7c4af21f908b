"""What an operator and Prometheus see of a running daemon: metrics, services by command, logs, the bus, the config."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.errors import CallError
from sparkd.testing import Node, free_port
from tests.system.watching import QUIET, client, plugin, runs, scrape, service, until, write_drop_in

TELEMETRY = "[plugins.node-telemetry]\ninterval_s = 0.2\n"
COUNTS = "from prometheus_client import Counter\nCounter('it_done', 'Done.', registry=ctx.metrics).inc(3)\n"
NEW_LINES = """\
task_status.started()
number = 0
while True:
    number += 1
    ctx.log.info("tick", number=number)
    await anyio.sleep(0.05)
"""
SECRETIVE = """\
from sparkd import Secret
@dataclass(frozen=True, kw_only=True)
class Own:
    access: Secret
    password: Secret | None = None
"""
FLOOD = """\
task_status.started()
await anyio.sleep(0.1)
line = "x" * 99 + "\\n"
for _ in range(100_000):
    sys.stdout.write(line)
sys.stdout.write("y" * 1_000_000 + "\\n")
sys.stdout.flush()
await anyio.sleep(0.5)
ctx.log.info("that was it")
await anyio.sleep_forever()
"""


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    """A node with metrics and telemetry, prepared, not running yet."""
    config = f'[node]\nname = "lone"\nmetrics_listen = "127.0.0.1:{free_port()}"\n'
    node = Node("lone", folder, config + TELEMETRY).prepare()
    try:
        yield node
    finally:
        node.stop()


def topics(events: list[dict[str, Any]]) -> set[str]:
    return {event["topic"] for event in events}


def metrics(node: Node) -> str:
    return scrape(node.config.partition('metrics_listen = "')[2].partition('"')[0])


def test_metrics_of_core_and_children(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(COUNTS + QUIET))
    node.start()
    pid = runs(node, "it")["pid"]
    text = metrics(node)

    assert 'it_done_total{service="it"} 3.0' in text
    assert 'sparkd_service_state{name="it",service="core",state="running"} 1.0' in text
    assert 'process_resident_memory_bytes{service="core"}' in text

    node.call("plugins.stop", name="it")
    assert "it_done" not in metrics(node), "a child that has ended leaves nothing"
    node.call("plugins.start", name="it")
    assert service(node, "it")["pid"] != pid
    assert 'it_done_total{service="it"} 3.0' in metrics(node)


def test_a_killed_child_is_back_within_a_second_and_counted(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET))
    node.start()
    pid = runs(node, "it")["pid"]
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    found = until(lambda: service(node, "it"), lambda s: s["state"] == "running" and s["pid"] != pid)

    assert time.monotonic() - begun < 1.0
    assert found["restarts"] == 1
    assert 'sparkd_service_restarts_total{name="it",service="core"} 1.0' in metrics(node)


def test_a_busy_child_does_not_hold_the_metrics_up(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(COUNTS + QUIET))
    (node.plugins / "busy.py").write_text(
        plugin("task_status.started()\nawait anyio.sleep(0.1)\ntime.sleep(20)", name="busy")
    )
    node.start()
    runs(node, "busy")
    time.sleep(0.3)  # until it is busy
    begun = time.monotonic()

    assert 'it_done_total{service="it"} 3.0' in metrics(node)
    assert time.monotonic() - begun < 4.0


@pytest.mark.parametrize("inline", [False, True])
def test_inline_or_in_a_process_it_behaves_the_same(node: Node, *, inline: bool) -> None:
    names = '["node-telemetry"]' if inline else "[]"
    node.config_file.write_text(node.config.replace("[node]\n", f"[node]\ninline = {names}\n"))
    node.start()
    found = runs(node, "node-telemetry")

    assert found["isolation"] == ("inline" if inline else "process")
    assert (found["pid"] is None) is inline
    until(lambda: node.call("bus.last", topic="system.health"), lambda last: "system.health" in topics(last))
    until(lambda: node.call("outbox.status"), lambda streams: streams and streams[0]["last_seq"] > 1)

    assert node.call("plugins.stop", name="node-telemetry")["state"] == "stopped"
    assert node.call("plugins.start", name="node-telemetry")["state"] == "running"
    assert node.call("plugins.restart", name="node-telemetry")["state"] == "running"
    seen = node.call("outbox.status")[0]["last_seq"]
    until(lambda: node.call("outbox.status")[0]["last_seq"], lambda now: now > seen)
    write_drop_in(node, "[plugins.node-telemetry]\ninterval_s = 0.0\n")
    node.call("config.reload")
    broken = until(lambda: service(node, "node-telemetry"), lambda s: s["state"] == "broken")
    assert "interval_s" in broken["reason"]
    assert node.stop() == 0


def test_services_by_command(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET))
    node.start()
    first = runs(node, "it")

    assert node.call("plugins.stop", name="it")["state"] == "stopped"
    assert node.call("node.health")
    second = node.call("plugins.start", name="it")
    third = node.call("plugins.restart", name="it")
    assert [second["state"], third["state"]] == ["running", "running"]
    assert len({first["pid"], second["pid"], third["pid"]}) == 3
    assert third["restarts"] == 0
    with pytest.raises(CallError, match="did you mean 'it'"):
        node.call("plugins.stop", name="itt")


def test_disabled_and_enabled_survive_a_restart(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET))
    node.start()
    runs(node, "it")
    assert node.call("plugins.disable", name="it")["enabled"] is False
    assert service(node, "it") == {}
    node.stop()
    node.start()
    assert service(node, "it") == {}
    assert [p["enabled"] for p in node.call("plugins.status") if p["name"] == "it"] == [False]

    assert node.call("plugins.enable", name="it")["enabled"] is True
    runs(node, "it")
    node.stop()
    node.start()
    runs(node, "it")


@pytest.mark.parametrize("deed", ["enable", "disable"])
def test_a_plugin_that_is_not_there_is_not_enabled_nor_disabled(node: Node, deed: str) -> None:
    node.start()
    with pytest.raises(CallError, match="did you mean 'node-telemetry'"):
        node.call(f"plugins.{deed}", name="node-telemetri")

    assert node.call("node.status")["problems"] == []


def test_logs_tail_and_follow(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(NEW_LINES))
    node.start()
    runs(node, "it")
    until(lambda: node.call("logs.tail", service="it", lines=3), lambda lines: len(lines) == 3)
    tail = node.call("logs.tail", service="it", lines=3)
    assert [record["text"].split()[0] for record in tail] == ["tick"] * 3
    assert "core" in {record["service"] for record in node.call("logs.tail", lines=400)}

    with client(node) as connection:
        follow = connection.results("logs.follow", {"service": "it"})
        numbers = [int(next(follow)["text"].rpartition("=")[2]) for _ in range(5)]
    assert numbers == list(range(numbers[0], numbers[0] + 5))


def test_a_subscription_gives_the_last_values_first(node: Node) -> None:
    node.start()
    until(lambda: node.call("bus.last", topic="system.health"), lambda last: "system.health" in topics(last))
    with client(node) as connection:
        events = connection.results("bus.subscribe", {"topics": ["system.health", "edge.telemetry"]})
        seen = [next(events)]
        while seen[-1]["topic"] != "edge.telemetry":
            seen.append(next(events))

    held = [event for event in seen if event["retained"]]
    assert {"system.health", "system.health.service.node-telemetry"} <= topics(held)
    assert seen[: len(held)] == held, "first what was there, then what comes"
    assert not seen[-1]["retained"]


def test_a_secret_is_not_shown(node: Node) -> None:
    says = "ctx.log.info(f'{ctx.config.access} {ctx.config.access.reveal() == os.environ[\"HUSH\"]}')\n"
    (node.plugins / "it.py").write_text(plugin(says + QUIET, config="Own", more=SECRETIVE))
    node.environment = {"HUSH": "open-sesame"}
    file = write_drop_in(node, '[plugins.it]\naccess = {env = "HUSH"}\n')
    node.start()
    runs(node, "it")
    assert node.call("config.show")["plugins"]["it"]["access"] == {"env": "HUSH"}
    until(node.last_words, lambda words: "<secret from environment variable HUSH> True" in words)

    file.write_text('[plugins.it]\naccess = {env = "HUSH"}\npassword = "open-sesame"\n')
    node.call("config.reload")
    broken = until(lambda: service(node, "it"), lambda s: s["state"] == "broken")
    assert "named, not written" in broken["reason"]
    everything = str([node.call(m) for m in ("config.show", "node.status", "plugins.status", "logs.tail")])
    assert "open-sesame" not in everything + node.last_words()


def test_a_secret_under_any_name_is_not_shown(node: Node) -> None:
    (node.plugins / "it.py").write_text(plugin(QUIET, config="Own", more=SECRETIVE))
    write_drop_in(node, '[plugins.it]\naccess = "open-sesame"\n')
    node.start()
    broken = until(lambda: service(node, "it"), lambda s: s["state"] == "broken")

    everything = str([node.call(m) for m in ("config.show", "node.status", "plugins.status", "logs.tail")])
    assert "named, not written" in broken["reason"]
    assert "open-sesame" not in everything + node.last_words()


def test_a_flood_of_output_hurts_nobody(node: Node) -> None:
    node.start()
    before = runs(node, "node-telemetry")
    (node.plugins / "it.py").write_text(plugin(FLOOD))
    runs(node, "it")
    longest = 0.0
    deadline = time.monotonic() + 30
    while not any("that was it" in line for line in service(node, "it").get("last_lines", ())):
        begun = time.monotonic()
        node.call("node.version")
        longest = max(longest, time.monotonic() - begun)
        assert time.monotonic() < deadline

    assert longest < 0.5
    assert service(node, "node-telemetry")["pid"] == before["pid"]
    assert service(node, "it")["restarts"] == 0
    assert len(str(node.call("logs.tail", service="it", lines=1000))) < 2_000_000
    assert node.log.stat().st_size < 1_000_000, "the journal's limit is for the whole daemon"
    assert node.call("node.status")["core_memory_bytes"] < 60_000_000
