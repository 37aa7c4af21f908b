"""Every command of `sparkctl`, as a process of its own, against a real daemon with a plugin dropped in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.parser import BAD_CONFIG, FAILED, NO_DAEMON, NOT_WELL
from sparkd.registry import new_plugin
from sparkd.testing import Node, short_folder
from tests.test_readme import README, between, blocks

CONFIG = '[node]\nname = "lone"\nmetrics_listen = ""\n[plugins.node-telemetry]\ninterval_s = 0.2\n'


@dataclass
class Ctl:
    """Runs `sparkctl` for one node, found by its config alone, as an operator would."""

    node: Node

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "sparkd.cli", "--config", str(self.node.config_file)]

    @property
    def environment(self) -> dict[str, str]:
        folders = {"RUNTIME_DIRECTORY": self.node.root / "run", "STATE_DIRECTORY": self.node.state}
        return {**os.environ, **{name: str(path) for name, path in folders.items()}}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30, check=False)

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert done.stderr == ""
        return json.loads(done.stdout)

    def lines(self, *words: str, count: int) -> list[str]:
        """Return the first lines of a command that goes on until it is interrupted; it must then end well."""
        return first_lines([*self.command, *words], count, self.environment)


def first_lines(command: list[str], count: int, environment: dict[str, str], *, code: int | None = 0) -> list[str]:
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            lines = [process.stdout.readline() for _ in range(count)]
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=10)[1]
        except BaseException:
            process.kill()
            raise
    if code is not None:
        assert (process.returncode, errors) == (code, "")
    return lines


@pytest.fixture(scope="module")
def ctl() -> Iterator[Ctl]:
    with short_folder() as folder:
        node = Node("lone", folder, CONFIG).prepare()
        (node.plugins / "counter.py").write_text(new_plugin("counter").replace("= 5.0", "= 0.1"))
        try:
            yield Ctl(node.start())
        finally:
            node.stop()


@pytest.fixture
def broken(ctl: Ctl) -> Iterator[Path]:
    """A plugin that cannot be loaded, for the time of a test."""
    file = ctl.node.plugins / "bad.py"
    file.write_text("\n\nraise RuntimeError('no good')\n")
    ctl.json("plugin", "rescan")
    yield file
    file.unlink()
    ctl.json("plugin", "rescan")


def state_of(ctl: Ctl, name: str) -> str:
    found: str = next(s["state"] for s in ctl.json("status")["services"] if s["name"] == name)
    return found


def test_status_of_a_node_that_is_well(ctl: Ctl) -> None:
    done = ctl("status")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lone  edge node at home, sparkd ")
    assert "counter         running" in done.stdout
    assert "\x1b" not in done.stdout, "no colour without a terminal"


def test_status_says_which_plugin_is_bad_where_and_why(ctl: Ctl, broken: Path) -> None:
    done = ctl("status")

    assert done.returncode == NOT_WELL
    assert "RuntimeError: no good" in done.stdout
    assert f"at {broken}:3" in done.stdout
    assert "counter         running" in done.stdout


def test_plugins_and_the_check_say_it_too(ctl: Ctl, broken: Path) -> None:
    plugins = {plugin["name"]: plugin for plugin in ctl.json("plugins")}
    assert (plugins["bad"]["file"], plugins["bad"]["line"]) == (str(broken), 3)
    assert plugins["counter"]["origin"].endswith("counter.py")
    assert plugins["node-telemetry"]["origin"] == "installed"
    assert "● bad: RuntimeError: no good" in ctl("plugins").stdout

    checked = ctl("check")
    assert checked.returncode == BAD_CONFIG
    assert f"plugin bad: {broken}:3: RuntimeError: no good" in checked.stdout


def test_the_check_of_what_is_good(ctl: Ctl) -> None:
    assert ctl.json("check")["problems"] == []


def test_a_service_is_stopped_started_and_restarted(ctl: Ctl) -> None:
    assert ctl("plugin", "stop", "counter").stdout == "counter: stopped\n"
    assert state_of(ctl, "counter") == "stopped"
    assert ctl("status").returncode == 0, "it was told to stop"
    assert ctl("plugin", "start", "counter").stdout == "counter: running\n"


def test_a_restart_answers_with_the_new_process(ctl: Ctl) -> None:
    before = ctl.json("plugin", "start", "counter")["pid"]
    after = ctl.json("plugin", "restart", "counter")

    assert after["state"] == "running"
    assert after["pid"] != before


def test_a_plugin_is_disabled_and_enabled_again(ctl: Ctl) -> None:
    assert "disabled" in ctl("plugin", "disable", "counter").stdout
    assert "counter" not in {service["name"] for service in ctl.json("status")["services"]}
    assert ctl.json("plugin", "enable", "counter")["enabled"]
    assert ctl.json("plugin", "start", "counter")["state"] == "running"


def test_a_name_that_is_nearly_right(ctl: Ctl) -> None:
    done = ctl("plugin", "stop", "countre")

    assert done.returncode == FAILED
    assert "did you mean 'counter'?" in done.stderr


def test_a_new_plugin_runs(ctl: Ctl) -> None:
    assert ctl("plugin", "new", "second-one").returncode == 0

    assert ctl.json("plugin", "rescan").keys() == {"added", "changed", "removed"}
    assert ctl.json("plugin", "start", "second-one")["state"] == "running"
    (ctl.node.plugins / "second_one.py").unlink()


def test_events_come_as_lines(ctl: Ctl) -> None:
    text, again = ctl.lines("sub", "edge.sensors.counter", count=2)
    assert "edge.sensors.counter lone/counter {" in text
    assert "edge.sensors.counter" in again

    (line,) = ctl.lines("--json", "sub", "edge.telemetry", count=1)
    event = json.loads(line)
    assert (event["topic"], event["service"]) == ("edge.telemetry", "node-telemetry")
    assert event["event"]["cpu_percent_each"]


def test_a_subscription_begins_with_the_last_values(ctl: Ctl) -> None:
    event = json.loads(ctl.lines("--json", "sub", "system.health", count=1)[0])

    assert event["retained"]


def test_logs(ctl: Ctl) -> None:
    done = ctl("logs", "core", "-n", "1000")
    assert "service running" in done.stdout
    assert json.loads(ctl.lines("logs", "-f", "core", "--json", count=1)[0])["service"] == "core"


def test_bus_and_outbox_count(ctl: Ctl) -> None:
    ctl.lines("sub", "edge.telemetry", count=1)

    assert "node-telemetry" in ctl("bus").stdout
    assert ctl.json("bus")["services"]["counter"]["published"] >= 0
    (stream,) = (s for s in ctl.json("outbox") if s["service"] == "node-telemetry")
    assert stream["last_seq"] >= 1
    assert "node-telemetry/events" in ctl("outbox").stdout


def test_config_and_schema(ctl: Ctl) -> None:
    assert "[plugins.node-telemetry]" in ctl("config", "show").stdout
    assert ctl.json("config", "show")["node"]["name"] == "lone"
    assert ctl("config", "reload").returncode == 0
    assert ctl.json("schema", "counter")["properties"]["interval_s"]["type"] == "number"


def test_call(ctl: Ctl) -> None:
    assert ctl.json("call", "node.version") == ctl.json("status")["version"]
    assert json.loads(ctl.lines("call", "bus.subscribe", '{"topics": ["edge"]}', "--json", count=1)[0])["topic"]
    wrong = ctl("call", "node.status", '{"x": 1}', "--json")
    assert wrong.returncode == FAILED
    assert json.loads(wrong.stderr)["kind"] == "invalid-params"


def test_a_node_that_is_not_there(ctl: Ctl) -> None:
    done = ctl("--node", "primecore", "status")

    assert done.returncode == FAILED
    assert "primecore" in done.stderr


def test_keys(ctl: Ctl) -> None:
    assert ctl("keys", "new").returncode == 0
    shown = ctl.json("keys", "show")

    assert shown["node"] == "lone"
    assert ctl("keys", "trust", "myself", shown["public"]).returncode == BAD_CONFIG


@pytest.mark.parametrize(("marker", "count"), [("bus", 2), ("socket", 3)])
def test_the_examples_of_readme_work(ctl: Ctl, marker: str, count: int) -> None:
    (code,) = blocks(between(marker, README.read_text()), "python")
    code = code.replace("/run/sparkd", str(ctl.node.root / "run"))

    lines = first_lines([sys.executable, "-I", "-c", code], count, dict(os.environ), code=None)

    assert "sparkd" not in code.replace(str(ctl.node.root / "run" / "sparkd.sock"), "")
    assert "edge." in lines[-1]


def test_no_daemon_any_more() -> None:
    with short_folder() as folder:
        done = Ctl(Node("gone", folder, CONFIG).prepare())("status")

    assert done.returncode == NO_DAEMON
    assert "Try: systemctl status sparkd" in done.stderr
