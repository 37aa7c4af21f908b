"""The command line: words and options, and nothing else."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest
import shtab

from sparkd.cli import parser
from sparkd.cli.main import _COMMANDS

LINES: dict[str, dict[str, object]] = {
    "status": {"command": "status"},
    "plugins": {"command": "plugins"},
    "top --once --sort rss": {"command": "top", "once": True, "sort": "rss"},
    "history core cpu --since 2h": {"command": "history", "service": "core", "metric": "cpu", "since": 7200.0},
    "history core --csv --last-crash": {"metric": "rss", "csv": True, "last_crash": True},
    "usage": {"command": "usage"},
    "plugin start x": {"command": "plugin", "verb": "start", "name": "x"},
    "plugin stop x": {"command": "plugin", "verb": "stop", "name": "x"},
    "plugin restart x": {"command": "plugin", "verb": "restart", "name": "x"},
    "plugin enable x": {"command": "plugin", "verb": "enable", "name": "x"},
    "plugin disable x": {"command": "plugin", "verb": "disable", "name": "x"},
    "plugin new x": {"command": "plugin", "verb": "new", "name": "x"},
    "plugin rescan": {"command": "plugin", "verb": "rescan"},
    "call a.b": {"command": "call", "method": "a.b", "params": "{}"},
    "call a.b []": {"command": "call", "params": "[]"},
    "sub a b": {"command": "sub", "topics": ["a", "b"]},
    "bus": {"command": "bus"},
    "check": {"command": "check"},
    "config show": {"command": "config", "verb": "show"},
    "config reload": {"command": "config", "verb": "reload"},
    "schema x": {"command": "schema", "name": "x"},
    "outbox": {"command": "outbox"},
    "keys new": {"command": "keys", "verb": "new", "force": False},
    "keys new --force": {"command": "keys", "verb": "new", "force": True},
    "keys show": {"command": "keys", "verb": "show"},
    "keys trust a KEY": {"command": "keys", "verb": "trust", "name": "a", "key": "KEY"},
    "keys revoke a": {"command": "keys", "verb": "revoke", "name": "a"},
    "invite b --receive edge": {"command": "invite", "name": "b", "receive": ["edge"], "minutes": 10.0},
    "join": {"command": "join", "code": ""},
    "logs": {"command": "logs", "service": "", "follow": False, "lines": 50},
    "logs -f x -n 5": {"command": "logs", "service": "x", "follow": True, "lines": 5},
    "logs --since 2h --level warning --grep disk": {"command": "logs", "since": 7200.0, "level": "warning"},
    "access": {"command": "access", "method": "", "topic": [], "user": ""},
    "access a.b --topic c --user d": {"command": "access", "method": "a.b", "topic": ["c"], "user": "d"},
    "audit": {"command": "audit", "lines": 50, "follow": False, "verify": False, "folder": None},
    "memory": {"command": "memory", "verb": None},
    "memory put n k text --tag a --tag b --ttl 2h": {"verb": "put", "value": "text", "tags": ["a", "b"], "ttl": 7200.0},
    "memory put n k --file - --type image/png": {"value": None, "file": "-", "content_type": "image/png"},
    "memory get n k --out f": {"verb": "get", "namespace": "n", "key": "k"},
    "memory search x --in n --in m --limit 3": {"verb": "search", "namespaces": ["n", "m"], "limit": 3},
    "memory export f": {"verb": "export", "namespaces": None},
    "power": {"command": "power", "verb": None},
    "power plan low": {"command": "power", "verb": "plan", "mode": "low"},
    "power hold off-grid --for 30m": {"command": "power", "verb": "hold", "mode": "off-grid", "span": 1800.0},
    "audit -n 5 -f": {"command": "audit", "lines": 5, "follow": True, "verify": False, "folder": None},
    "log-level": {"command": "log-level", "level": None, "service": ""},
    "log-level debug hailo-inference": {"command": "log-level", "level": "debug", "service": "hailo-inference"},
    "backup x.tar.gz": {"command": "backup", "file": "x.tar.gz", "force": False},
    "restore --force x.tar.gz": {"command": "restore", "file": "x.tar.gz", "force": True},
    "doctor --all": {"command": "doctor", "all": True},
    "support-bundle x.tar.gz": {"command": "support-bundle", "file": "x.tar.gz"},
    "init --role cloud -y": {"command": "init", "role": "cloud", "yes": True},
    "config changes": {"command": "config", "verb": "changes"},
    "config accept": {"command": "config", "verb": "accept"},
    "fleet check f.toml": {"command": "fleet", "verb": "check", "file": Path("f.toml")},
    "fleet render --out d": {"command": "fleet", "verb": "render", "file": None, "out": Path("d")},
    "fleet diff --dir d --node n": {"command": "fleet", "verb": "diff", "dir": Path("d"), "node": "n"},
    "fleet status": {"command": "fleet", "verb": "status", "file": None},
    "completion bash": {"command": "completion", "shell": "bash"},
}


def parse(*words: str) -> argparse.Namespace:
    return parser.build().parse_args(words)


@pytest.mark.parametrize("line", LINES)
def test_each_command_is_understood(line: str) -> None:
    options = vars(parse(*line.split()))

    assert {**options, **LINES[line]} == options
    assert options["command"] in _COMMANDS


def test_no_command_is_without_a_deed_or_a_word() -> None:
    assert {line.split()[0] for line in LINES} == set(_COMMANDS)


def test_general_options_may_stand_before_and_after_the_command() -> None:
    before = parse("--json", "--node", "n", "--timeout", "3", "status")
    after = parse("status", "--json", "--node", "n", "--timeout", "3")

    assert before == after
    assert (before.json, before.node, before.timeout) == (True, "n", 3.0)


def test_general_options_have_defaults() -> None:
    options = parse("plugin", "rescan")

    assert (options.json, options.node, options.timeout) == (False, "", 10.0)
    assert options.socket is None
    assert options.config is None


def test_a_key_may_begin_with_a_hyphen() -> None:
    key = "-" + "h" * 39

    assert parse("keys", "trust", "a", key).key == key
    assert parse("keys", "trust", "a", "--" + "j" * 38, "--json").json


@pytest.mark.parametrize(
    "line", ["", "nonsense", "plugin", "plugin start", "sub", "call", "keys trust a", "--timeout 0 status", "logs -n x"]
)
def test_wrong_usage_is_code_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*line.split())

    assert ended.value.code == parser.USAGE
    assert "usage: sparkctl" in capsys.readouterr().err


def test_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")

    shown = capsys.readouterr().out
    for code in (0, parser.FAILED, parser.USAGE, parser.NO_DAEMON, parser.BAD_CONFIG, parser.NOT_WELL):
        assert f"\n  {code}  " in shown


def test_completion_is_a_script_that_bash_can_read() -> None:
    script = shtab.complete(parser.build(), shell="bash")

    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "rescan" in script
