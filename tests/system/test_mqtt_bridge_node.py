"""mqtt-bridge in a real daemon, with a real mosquitto."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from sparkd.testing import Node
from tests.plugins.mosquitto import mosquitto, watcher
from tests.system.test_budgets import node
from tests.system.watching import QUIET, plugin, runs, service, until

CONFIG = """
[plugins.power-monitor]
[plugins.mqtt-bridge]
port = {port}
reach = "{reach}"
retry_least_s = 0.1
retry_most_s = 0.2
switches = ["it"]
[plugins.mqtt-bridge.commands.hold]
method = "power.hold"
parameter = "mode"
choices = ["on-grid", "low"]
params = {{ seconds = 60.0 }}
[plugins.mqtt-bridge.commands.again]
method = "plugins.restart"
params = {{ name = "it" }}
"""
LOGIN = '[plugins.mqtt-bridge.login]\nusername = "house"\npassword = {{ file = "{file}" }}\n'
MODE = "sparkd/home/system/power/mode"


def started(home: Node) -> Node:
    (home.plugins / "it.py").write_text(plugin(QUIET))
    home.start()
    runs(home, "it")
    return home


def test_state_goes_out_and_commands_come_in() -> None:
    with (
        mosquitto() as broker,
        watcher(broker.port) as seen,
        node(CONFIG.format(port=broker.port, reach="local")) as home,
    ):
        started(home)
        seen.until(lambda got: got.get("sparkd/home/availability") == ["online"])
        seen.until(lambda got: "sparkd/home/system/health/service/it" in got)
        (announced,) = [topic for topic in seen.got if topic.startswith("homeassistant/device/")]
        entities = json.loads(seen.last(announced))["components"]
        assert {"power_mode", "service_it", "command_hold", "command_again"} <= set(entities)
        assert entities["power_mode"]["state_topic"] == MODE

        seen.send("sparkd/home/command/hold", "low")
        seen.until(lambda got: MODE in got and json.loads(got[MODE][-1])["mode"] == "low")
        seen.until(partial(has, "sparkd/home/command/hold/result"))
        assert json.loads(seen.last("sparkd/home/command/hold/result")) == {"ok": True}
        assert home.call("power.status")["mode"] == "low"
        seen.send("sparkd/home/command/it", "OFF")
        until(lambda: service(home, "it")["state"], lambda state: state == "stopped")
        seen.until(lambda got: json.loads(got["sparkd/home/system/health/service/it"][-1])["state"] == "stopped")
        seen.send("sparkd/home/command/it", "ON")
        pid = runs(home, "it")["pid"]

        for name, text in (("again", b"\xff\x00"), ("again", b"x" * 5000), ("other", b"PRESS"), ("hold", b"critical")):
            seen.send(f"sparkd/home/command/{name}", text)
            result = f"sparkd/home/command/{name}/result"
            seen.until(partial(has, result))
        seen.send("sparkd/home/command/again", "PRESS", retain=True)
        assert service(home, "it")["pid"] == pid

        before = len(seen.got[announced])
        seen.send("homeassistant/status", "online")
        seen.until(lambda got: len(got[announced]) > before)


def test_a_broker_that_dies_is_a_state_and_comes_back() -> None:
    with mosquitto() as broker, node(CONFIG.format(port=broker.port, reach="local")) as home:
        started(home)
        until(lambda: service(home, "mqtt-bridge")["state"], lambda state: state == "running", limit_s=20)
        broker.kill()
        lost = until(lambda: service(home, "mqtt-bridge"), lambda one: one["state"] == "degraded", limit_s=20)
        assert "broker" in lost["reason"]
        home.call("power.hold", mode="off-grid", seconds=60.0)
        broker.start()
        with watcher(broker.port) as seen:
            seen.until(lambda got: MODE in got and json.loads(got[MODE][-1])["mode"] == "off-grid", limit_s=20)
            seen.until(lambda got: got.get("sparkd/home/availability", [""])[-1] == "online")
            home.kill()
            seen.until(lambda got: got["sparkd/home/availability"][-1] == "offline", limit_s=20)
        assert service_restarts(lost) == 0


def test_a_node_that_is_stopped_in_order_is_offline_at_once() -> None:
    with (
        mosquitto() as broker,
        watcher(broker.port) as seen,
        node(CONFIG.format(port=broker.port, reach="local")) as home,
    ):
        started(home)
        seen.until(lambda got: got.get("sparkd/home/availability", [""])[-1] == "online")
        home.stop()
        assert seen.last("sparkd/home/availability") == "offline"


def has(topic: str, got: dict[str, list[str]]) -> bool:
    return topic in got


def service_restarts(one: dict[str, Any]) -> int:
    return int(one["restarts"])


def test_what_is_local_stays_from_a_broker_that_is_not(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        mosquitto() as broker,
        watcher(broker.port) as seen,
        node(CONFIG.format(port=broker.port, reach="shared")) as home,
    ):
        started(home)
        seen.until(lambda got: "sparkd/home/system/health/service/it" in got)  # it is shared
        home.call("power.hold", mode="low", seconds=60.0)
        seen.send("sparkd/home/command/again", "PRESS")
        seen.until(lambda got: "sparkd/home/command/again/result" in got)
        assert not [topic for topic in seen.got if topic.startswith("sparkd/home/system/power")]


def test_a_login_that_is_refused_is_named_without_the_secret() -> None:
    with mosquitto(login=("house", "right")) as broker, node(CONFIG.format(port=broker.port, reach="local")) as home:
        file = home.root / "secret"
        file.write_text("hunter2\n")
        file.chmod(0o600)
        home.config_file.write_text(home.config_file.read_text() + LOGIN.format(file=file))
        started(home)
        seen = until(lambda: service(home, "mqtt-bridge"), lambda one: "no connection" in one["reason"], limit_s=20)
        assert "username and password" in seen["remedy"]
        assert "hunter2" not in json.dumps(home.call("node.status")) + home.log.read_text()
        file.write_text("right\n")
        home.call("plugins.restart", name="mqtt-bridge", timeout_s=30.0)
        until(lambda: service(home, "mqtt-bridge")["state"], lambda state: state == "running", limit_s=20)
