"""A change that makes a critical service fail is taken back by itself, told, and tried again when it changes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd.cli.main import main
from sparkd.cli.parser import NOT_WELL
from sparkd.testing import Node
from tests.system.watching import plugin, runs, service, until, write_drop_in

GOOD = "task_status.started()\nawait anyio.sleep_forever()"
FAILS = "raise RuntimeError('no good at all')"
FAILS_LATER = "task_status.started()\nawait anyio.sleep(0.8)\nraise RuntimeError('later')"
BY_CONFIG = (
    "if ctx.config.speed > 5:\n    raise RuntimeError('too fast')\ntask_status.started()\nawait anyio.sleep_forever()"
)
TABLE = "@dataclass(frozen=True, slots=True, kw_only=True)\nclass Table:\n    speed: int = 1\n"
CRITICAL = "[plugins.eye]\ncritical = true\nhealth_window_s = {window}\n{more}\n"


def drop_in(node: Node, body: str, *, name: str = "eye", **more: str) -> None:
    file = node.plugins / f"{name}.py"
    part = node.plugins / f".{name}.part"
    part.write_text(plugin(body, name=name, **more))
    part.replace(file)


def configure(node: Node, *, window: float = 1.2, more: str = "") -> None:
    write_drop_in(node, CRITICAL.format(window=window, more=more))


def state(node: Node) -> dict[str, Any]:
    file = node.state / "last-known-good" / "state.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def cpu_s(node: Node) -> float:
    """Return the processor time that the core has used."""
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def problems(node: Node) -> str:
    return " | ".join(node.call("node.status")["problems"])


def known_good(node: Node) -> str:
    """Wait until what is on disk is known to be good; return the version."""
    return str(until(lambda: state(node), lambda held: held.get("good") and not held["bad"], limit_s=8)["good"])


@pytest.fixture
def eye(folder: Path) -> Iterator[Node]:
    node = Node("lone", folder, '[node]\nname = "lone"\nmetrics_listen = ""\n').prepare()
    drop_in(node, GOOD)
    configure(node)
    try:
        node.start()
        runs(node, "eye")
        known_good(node)
        yield node
    finally:
        node.stop()


def taken_back(node: Node, *, limit_s: float = 10) -> dict[str, Any]:
    return until(lambda: state(node), lambda held: held.get("bad"), limit_s=limit_s)


@pytest.mark.parametrize("body", [FAILS, FAILS_LATER, "def broken(:"])
def test_bad_code_over_a_good_plugin_is_taken_back_and_told(eye: Node, body: str) -> None:
    good = state(eye)["good"]
    drop_in(eye, body)

    held = taken_back(eye)
    assert (held["good"], held["service"]) == (good, "eye")
    runs(eye, "eye")
    assert "the last change was taken back" in problems(eye)
    assert body.splitlines()[-1] in (eye.plugins / "eye.py").read_text(), "the operator's file is never written"
    kept = eye.state / "last-known-good" / "versions" / held["bad"] / "plugins" / "0" / "eye.py"
    assert kept.read_text() == (eye.plugins / "eye.py").read_text()
    difference = eye.call("config.changes")["difference"]
    assert "+++ changed/plugins/0/eye.py" in difference
    assert main(["--config", str(eye.config_file), "--socket", str(eye.socket_path), "status"]) == NOT_WELL


def test_a_config_that_fails_only_when_it_runs(eye: Node) -> None:
    first = state(eye)["good"]
    drop_in(eye, BY_CONFIG, config="Table", more=TABLE)
    until(lambda: state(eye)["good"], lambda good: good != first, limit_s=8)
    configure(eye, more="speed = 9")
    write_drop_in(eye, "[plugins.other]\nenabled = false\n", name="b.toml")
    assert eye.call("config.reload")

    taken_back(eye)
    runs(eye, "eye")
    shown = eye.call("config.show")
    assert "speed" not in shown["plugins"]["eye"]
    assert "other" not in shown["plugins"], "one change is taken back as a whole"
    assert "+speed = 9" in eye.call("config.changes")["difference"]


def test_mended_files_get_a_trial_of_their_own_and_the_message_clears(eye: Node) -> None:
    drop_in(eye, FAILS)
    bad = taken_back(eye)["bad"]
    drop_in(eye, GOOD + "\n# mended")

    good = until(lambda: state(eye), lambda held: not held["bad"] and held["good"] != bad, limit_s=8)["good"]
    until(lambda: state(eye)["good"], lambda now: now != good, limit_s=8)
    runs(eye, "eye")
    assert eye.call("config.changes") is None
    assert "taken back" not in problems(eye)


def test_the_decision_outlives_the_daemon(eye: Node) -> None:
    drop_in(eye, FAILS)
    taken_back(eye)
    eye.kill()
    eye.start()
    found = runs(eye, "eye")
    assert found["restarts"] == 0, "the bad version was not even tried"
    assert "taken back" in until(lambda: problems(eye), lambda text: "taken back" in text)


def test_a_change_while_the_daemon_was_down_is_judged_at_its_start(eye: Node) -> None:
    eye.stop()
    drop_in(eye, FAILS)
    eye.start()
    taken_back(eye)
    runs(eye, "eye")


@pytest.mark.parametrize("step", ["last-good.before-keep", "last-good.before-note", "last-good.after-note"])
def test_a_kill_in_the_midst_of_it_leaves_the_old_or_the_new(eye: Node, step: str, folder: Path) -> None:
    eye.stop()
    drop_in(eye, FAILS)
    eye.environment = {"SPARKD_CRASH_AT": f"{step}:1:{folder / 'crashed'}"}
    eye.start(ready=False)
    until(lambda: eye.process and eye.process.poll(), lambda code: code is not None, limit_s=15)
    assert state(eye).get("good"), "the state is whole"

    eye.environment = {}
    eye.start()
    taken_back(eye)
    runs(eye, "eye")


def test_what_the_operator_stops_or_kills_and_what_is_not_critical_takes_nothing_back(eye: Node) -> None:
    before = state(eye)["good"]
    drop_in(eye, GOOD + "\n# changed")
    drop_in(eye, FAILS, name="other")
    until(lambda: service(eye, "other"), lambda found: found.get("state") in ("backoff", "broken"))
    eye.call("plugins.stop", name="eye")
    until(lambda: state(eye)["good"], lambda good: good != before, limit_s=8)
    assert not state(eye)["bad"]


def test_what_is_accepted_stays_whatever_comes_of_it(eye: Node, capsys: pytest.CaptureFixture[str]) -> None:
    drop_in(eye, FAILS)
    taken_back(eye)
    words = ["--config", str(eye.config_file), "--socket", str(eye.socket_path)]
    assert main([*words, "config", "changes"]) == 0
    assert "no good at all" in capsys.readouterr().out
    assert main([*words, "config", "accept"]) == 0

    until(lambda: service(eye, "eye"), lambda found: found.get("state") in ("backoff", "broken"))
    assert not state(eye)["bad"]
    assert main([*words, "config", "changes"]) == 0
    assert "nothing was taken back" in capsys.readouterr().out


def test_a_version_that_fails_with_nothing_to_go_back_to_is_only_shown(folder: Path) -> None:
    node = Node("lone", folder, '[node]\nname = "lone"\nmetrics_listen = ""\n').prepare()
    drop_in(node, f"if not os.path.exists({str(folder / 'mended')!r}):\n    {FAILS}\n{GOOD}")
    configure(node)
    try:
        node.start()
        until(lambda: service(node, "eye"), lambda found: found.get("restarts", 0) >= 2, limit_s=30)
        assert service(node, "eye")["reason"] == "RuntimeError: no good at all"
        assert not state(node).get("bad")
        assert node.call("config.changes") is None
        time.sleep(1.5)  # beyond the window: what follows shows that the judge does not go round and round then
        before = cpu_s(node)
        time.sleep(1.0)
        assert cpu_s(node) - before < 0.5
        (folder / "mended").touch()
        node.call("plugins.restart", name="eye")
        assert known_good(node), "one that comes to run is known to be good after all"
    finally:
        node.stop()


def test_a_critical_service_that_waits_for_a_device_takes_nothing_back(eye: Node, folder: Path) -> None:
    before = state(eye)["good"]
    wanted = folder / "device"
    drop_in(eye, GOOD, offer=f"needs=('path:{wanted}',)")
    until(lambda: service(eye, "eye"), lambda found: found.get("state") == "waiting")
    wanted.touch()
    runs(eye, "eye")
    until(lambda: state(eye)["good"], lambda good: good != before, limit_s=8)


@pytest.mark.parametrize("change", ["import", "remove"])
def test_a_critical_plugin_that_has_no_service_left_proves_nothing(eye: Node, change: str) -> None:
    before = state(eye)["good"]
    if change == "remove":
        (eye.plugins / "eye.py").unlink()
    else:
        drop_in(eye, GOOD, more="import a_module_that_nobody_has\n")
    until(lambda: service(eye, "eye").get("state"), lambda now: now != "running")
    drop_in(eye, GOOD, name="other")
    runs(eye, "other")
    began = time.monotonic()
    until(time.monotonic, lambda now: now > began + 3 or state(eye)["good"] != before)
    assert state(eye)["good"] == before, "twice the window has passed"


def test_a_version_that_could_not_be_written_is_tried_again_and_the_message_clears(eye: Node) -> None:
    before = state(eye)["good"]
    versions = eye.state / "last-known-good" / "versions"
    kept = versions.rename(versions.with_name("aside"))
    versions.write_text("in the way")
    drop_in(eye, GOOD + "\n# changed")
    until(lambda: problems(eye), lambda text: "cannot be kept" in text)
    versions.unlink()
    kept.rename(versions)

    until(lambda: state(eye)["good"], lambda good: good != before, limit_s=15)
    until(lambda: problems(eye), lambda text: "cannot be kept" not in text)


def test_a_config_that_was_edited_and_never_loaded_is_not_known_to_be_good(eye: Node) -> None:
    before = state(eye)["good"]
    configure(eye, more="no_such_key = 1")  # would fail, and nobody reloads
    drop_in(eye, GOOD + "\n# changed")
    time.sleep(2.5)  # longer than the window: nothing else tells that it has passed
    assert state(eye)["good"] == before

    eye.stop()
    eye.start()
    taken_back(eye)
    runs(eye, "eye")
