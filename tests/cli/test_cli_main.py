"""Each command that asks the daemon: what it asks, what it prints, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sparkd import State
from sparkd.cli.main import main
from sparkd.cli.parser import FAILED, NO_DAEMON, NOT_WELL, USAGE
from sparkd.core_interfaces import LogRecord, NodeStatus, PluginStatus, ServiceStatus
from tests.cli.socket_server import Answer, end, error, item, result, serving

Ctl = Callable[..., int]


def service(state: State, **more: Any) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(
        ServiceStatus(name="eyes", plugin="eyes", state=state, since=0.0, **more)
    )
    return built


def node(*states: State, **more: Any) -> Any:
    status = NodeStatus(
        node="lone",
        node_id="",
        role="edge",
        site="home",
        version="1",
        uptime_s=1,
        summary="",
        ready=True,
        services=[],
        links=[],
        problems=[],
    )
    return {**msgspec.to_builtins(status), "services": [service(state) for state in states], **more}


def ctl(folder: Path, answer: Answer, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """Run one command against a server that answers so; return its code and what it asked."""
    with serving(folder / "s", answer) as seen:
        return main(["--socket", str(folder / "s"), "--timeout", "2", *words]), seen


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([], 0),
        ([State.RUNNING, State.DISABLED, State.STOPPED, State.SHED], 0),
        *(([State.RUNNING, state], NOT_WELL) for state in (State.BROKEN, State.BACKOFF, State.WAITING, State.DEGRADED)),
    ],
)
def test_status_says_by_its_code_whether_all_is_well(tmp_path: Path, states: list[State], code: int) -> None:
    assert ctl(tmp_path, lambda r: [result(r, node(*states))], "status")[0] == code


def test_status_is_not_well_with_a_problem_or_a_link_down(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    down = {"peer": "p", "connected": False, "since": 0, "rtt_ms": None, "sent": 0, "received": 0, "refused": {}}

    assert ctl(tmp_path / "a", lambda r: [result(r, node(problems=["x"]))], "status")[0] == NOT_WELL
    answer = node(links=[{**down, "reason": "key refused"}])
    assert ctl(tmp_path / "b", lambda r: [result(r, answer)], "status")[0] == NOT_WELL
    assert "● link to p: key refused" in capfd.readouterr().out


def test_json_is_what_the_daemon_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, _ = ctl(tmp_path, lambda r: [result(r, node(State.BROKEN))], "status", "--json")

    assert code == NOT_WELL
    assert json.loads(capfd.readouterr().out) == node(State.BROKEN)


@pytest.mark.parametrize(
    ("words", "asked", "params"),
    [
        (["status"], "cloud/core:node.status", {}),
        (["plugin", "stop", "x"], "cloud/core:plugins.stop", {"name": "x"}),
        (["call", "vision.infer", '{"a": 1}'], "cloud/vision.infer", {"a": 1}),
        (["call", "other/vision.infer"], "other/vision.infer", {}),
        (["sub", "edge"], "cloud/core:bus.subscribe", {"topics": ["edge"]}),
    ],
)
def test_another_node_is_asked_through_this_one(
    tmp_path: Path, words: list[str], asked: str, params: dict[str, Any]
) -> None:
    _, seen = ctl(tmp_path, lambda r: [error(r, "no")], "--node", "cloud", *words)

    assert [(request["method"], request["params"]) for request in seen] == [(asked, params)]


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
@pytest.mark.parametrize(("state", "code"), [(State.RUNNING, 0), (State.STOPPED, 0), (State.BROKEN, NOT_WELL)])
def test_steering_says_what_became_of_the_service(
    tmp_path: Path, verb: str, state: State, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    reason = "it broke" if code else ""

    returned, seen = ctl(
        tmp_path, lambda r: [result(r, service(state, reason=reason, remedy="mend"))], "plugin", verb, "eyes"
    )

    assert (returned, seen[0]["method"]) == (code, f"plugins.{verb}")
    shown = capfd.readouterr().out
    assert shown.startswith(f"eyes: {state}\n")
    assert ("try: mend" in shown) is bool(code)


@pytest.mark.parametrize(("problem", "code"), [("", 0), ("SyntaxError", NOT_WELL)])
def test_enabling_shows_the_plugin(tmp_path: Path, problem: str, code: int) -> None:
    plugin = PluginStatus(name="eyes", origin="installed", enabled=True, services=[], problem=problem)

    returned, _ = ctl(tmp_path, lambda r: [result(r, msgspec.to_builtins(plugin))], "plugin", "enable", "eyes")

    assert returned == code


def test_call_prints_each_item_of_a_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        return [result(request, {"stream": 1}), item(1, 0, {"a": 1}), item(1, 1, 2), end(1)]

    assert ctl(tmp_path, answer, "call", "x.y", "--json")[0] == 0
    assert capfd.readouterr().out == '{"a": 1}\n2\n'


@pytest.mark.parametrize("params", ["{", "[1]", "5"])
def test_call_wants_a_json_object(tmp_path: Path, params: str) -> None:
    assert ctl(tmp_path, lambda _: [], "call", "x.y", params) == (USAGE, [])


def test_following_logs_leaves_no_gap_and_repeats_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old, new = (
        msgspec.to_builtins(LogRecord(service="eyes", level=6, text=text, at=at))
        for text, at in (("old", 1), ("new", 2))
    )

    def answer(request: dict[str, Any]) -> list[Any]:
        if request["method"] == "logs.follow":
            return [result(request, {"stream": 1}), item(1, 0, old), item(1, 1, new), end(1)]
        return [result(request, [old])]

    code, seen = ctl(tmp_path, answer, "logs", "-f", "eyes", "--json")

    assert code == 0
    assert [request["method"] for request in seen] == ["logs.follow", "logs.tail"]
    assert [json.loads(line)["text"] for line in capfd.readouterr().out.splitlines()] == ["old", "new"]


def test_an_error_of_the_daemon_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        return [error(request, "not \x1b[2J there", kind="unavailable", remedy="plug it in")]

    assert ctl(tmp_path, answer, "bus")[0] == FAILED
    assert capfd.readouterr().err == "sparkctl: unavailable: not \ufffd[2J there (plug it in)\n"


def test_an_error_is_json_for_scripts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(tmp_path, lambda r: [error(r, "no", kind="denied", rule="x")], "bus", "--json")[0] == FAILED

    assert json.loads(capfd.readouterr().err) == {"error": "denied: no (rule: x)", "kind": "denied", "rule": "x"}


def test_who_is_denied_learns_the_rule(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ctl(tmp_path, lambda r: [error(r, "no", kind="denied", rule="admins only")], "bus")

    assert capfd.readouterr().err == "sparkctl: denied: no (rule: admins only)\n"


def test_a_daemon_that_does_not_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(tmp_path, lambda _: [], "--timeout", "0.1", "bus")[0] == FAILED

    assert "no answer within 0.1 s" in capfd.readouterr().err


def test_a_daemon_that_goes_away(tmp_path: Path) -> None:
    assert ctl(tmp_path, lambda _: [None], "bus")[0] == NO_DAEMON


def test_no_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(tmp_path / "none"), "status"]) == NO_DAEMON

    shown = capfd.readouterr().err
    assert f"no daemon answers on {tmp_path}/none" in shown
    assert "Try: " in shown


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> list[Any]:
        return [result(request, {"stream": 1}), *(item(1, n, "x" * 1000) for n in range(500)), end(1)]

    with serving(tmp_path / "s", answer):
        command = f"{sys.executable} -m sparkd.cli --socket {tmp_path}/s call a.b --json; echo code $? >&2"
        piped = subprocess.run(
            ["bash", "-c", f"( {command} ) | head -n 1"], capture_output=True, text=True, check=True, timeout=30
        )

    assert piped.stderr == "code 0\n"


def test_a_script_does_not_pay_for_what_it_does_not_use(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda r: [result(r, node())]):
        code = (
            "import sys; from sparkd.cli import main; "
            f"main(['--socket', '{tmp_path}/s', '--json', 'status']); "
            "print(sorted({'rich', 'shtab', 'zmq', 'sparkd.link'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.splitlines()[-1] == "[]"
