"""Commands that need no daemon, with real files and real children."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sparkd.cli.main import main
from sparkd.cli.parser import BAD_CONFIG, FAILED, USAGE
from sparkd.link.keys import KeyStore
from sparkd.registry import new_plugin
from sparkd.testing import short_folder

NODE = '[node]\nname = "lone"\nruntime_dir = "{0}/run"\nstate_dir = "{0}/state"\ncache_dir = "{0}/cache"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "sparkd.toml"
    file.write_text(NODE.format(tmp_path))
    (tmp_path / "plugins").mkdir(mode=0o755)
    return file


def ctl(config: Path, *words: str) -> int:
    return main(["--config", str(config), *words])


def extend(config: Path, text: str) -> None:
    config.write_text(config.read_text() + text)


def checked(config: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    capfd.readouterr()
    code = ctl(config, "check", "--json")
    answer = json.loads(capfd.readouterr().out)
    assert answer["ok"] is not bool(answer["problems"])
    return code, answer["problems"]


def test_check_of_a_good_config(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(config, "[plugins.node-telemetry]\ninterval_s = 3.0\n")

    assert ctl(config, "check") == 0
    assert capfd.readouterr().out == f"no problems in {config}\n"
    assert sorted(path.name for path in config.parent.iterdir()) == ["plugins", "sparkd.toml"], "nothing is written"


def test_check_names_every_problem_of_the_core(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(config, '[rpc]\nreader = "anyone"\nmax_connections = 0\n')

    assert ctl(config, "check") == BAD_CONFIG
    shown = capfd.readouterr().out
    assert f"● {config}: [rpc] reader: unknown key; did you mean 'readers'?" in shown
    assert "max_connections" in shown
    assert shown.endswith("2 problems\n")


def test_check_reads_the_tables_of_plugins(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(
        config, "[plugins.node-telemetry]\nintervals = 3.0\nhot_c = 'x'\n[plugins.cloud-uplnk]\n[plugins.edge-ingest]\n"
    )

    code, problems = checked(config, capfd)

    assert code == BAD_CONFIG
    assert problems == [
        f"{config}: [plugins.node-telemetry] intervals: unknown key; did you mean 'interval_s'?",
        f"{config}: [plugins.node-telemetry] hot_c: got 'x' (text); a number expected",
        f"{config}: [plugins.cloud-uplnk]: there is no plugin of that name; did you mean 'cloud-uplink'?",
    ]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("def f(:", "invalid syntax"),
        ("import not_there", "not_there"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_check_survives_plugins(config: Path, code: str, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    bad = config.parent / "plugins" / "bad.py"
    bad.write_text(code)
    bad.chmod(0o644)

    returned, problems = checked(config, capfd)

    assert returned == BAD_CONFIG
    (problem,) = problems
    assert problem.startswith(f"plugin bad: {bad}")
    assert what in problem


def test_check_leaves_disabled_plugins_alone(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(config, "[plugins.nowhere]\nenabled = false\n[plugins.bad]\nenabled = false\n")
    (config.parent / "plugins" / "bad.py").write_text("raise SystemExit(1)")

    assert checked(config, capfd) == (0, [])


def test_check_of_a_link_wants_keys(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(config, '[link.peers.primecore]\naddress = "127.0.0.1:7700"\n')

    code, problems = checked(config, capfd)
    assert code == BAD_CONFIG
    assert [problem.partition("; try: ")[2] for problem in problems] == [
        "sparkctl keys new",
        "sparkctl keys trust primecore KEY",
    ]

    assert ctl(config, "keys", "new") == 0
    other = KeyStore(config.parent / "other").new()
    assert ctl(config, "keys", "trust", "primecore", other) == 0
    assert checked(config, capfd) == (0, [])


def test_no_such_config(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.toml"

    assert ctl(missing, "check") == BAD_CONFIG
    assert ctl(missing, "keys", "show") == BAD_CONFIG
    assert ctl(missing, "status") == BAD_CONFIG
    assert "no such file" in capfd.readouterr().err


def test_keys_from_new_to_revoked(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(config, "keys", "show") == BAD_CONFIG
    assert "try: sparkctl keys new" in capfd.readouterr().err

    assert ctl(config, "keys", "new", "--json") == 0
    own = json.loads(capfd.readouterr().out)["public"]
    assert ctl(config, "keys", "new") == BAD_CONFIG
    other = KeyStore(config.parent / "other").new()
    assert ctl(config, "keys", "trust", "primecore", other) == 0
    capfd.readouterr()
    assert ctl(config, "keys", "show") == 0
    assert capfd.readouterr().out == f"lone (this node): {own}\nprimecore: {other}\n"

    assert ctl(config, "keys", "revoke", "primecore") == 0
    assert ctl(config, "keys", "revoke", "primecore") == BAD_CONFIG
    assert ctl(config, "keys", "new", "--force", "--json") == 0
    capfd.readouterr()
    assert ctl(config, "keys", "show", "--json") == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["trusted"] == {}
    assert shown["public"] != own


def test_no_command_prints_a_secret(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ctl(config, "keys", "new")
    ctl(config, "keys", "show")
    ctl(config, "keys", "show", "--json")
    ctl(config, "check")

    shown = capfd.readouterr()
    secret = (config.parent / "state" / "keys" / "node.secret").read_text().strip()
    assert secret not in shown.out + shown.err


@pytest.mark.parametrize("key", ["short", "~" * 40, "x" * 41])
def test_a_key_that_is_none_is_refused(config: Path, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(config, "keys", "trust", "primecore", key) == BAD_CONFIG

    assert "key of primecore" in capfd.readouterr().err


def test_keys_show_names_files_it_cannot_use(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ctl(config, "keys", "new")
    (config.parent / "state" / "keys" / "trusted" / "bad.public").write_text("no key")

    assert ctl(config, "keys", "show") == BAD_CONFIG
    assert "● " in capfd.readouterr().out


def test_a_new_plugin_is_written_and_passes_the_check(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(config, "plugin", "new", "my-counter") == 0

    file = config.parent / "plugins" / "my_counter.py"
    assert file.read_text() == new_plugin("my-counter")
    assert file.stat().st_mode & 0o777 == 0o644
    assert "sparkctl sub edge.sensors.my-counter" in capfd.readouterr().out
    assert checked(config, capfd) == (0, [])


def test_a_new_plugin_makes_its_folder(config: Path) -> None:
    (config.parent / "plugins").rmdir()

    assert ctl(config, "plugin", "new", "first") == 0


@pytest.mark.parametrize("taken", ["my_counter.py", "my-counter.py", "my_counter"])
def test_a_new_plugin_replaces_nothing(config: Path, taken: str, capfd: pytest.CaptureFixture[str]) -> None:
    there = config.parent / "plugins" / taken
    there.write_text("mine")

    assert ctl(config, "plugin", "new", "my-counter") == FAILED
    assert there.read_text() == "mine"
    assert f"{there} is there already" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["My", "a_b", "../x", ""])
def test_a_name_that_is_none_is_wrong_usage(config: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert ctl(config, "plugin", "new", name) == USAGE

    assert "lower-case words" in capfd.readouterr().err
    assert list((config.parent / "plugins").iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0

    assert "sparkctl" in capfd.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_root_makes_keys_that_the_daemon_can_read() -> None:
    with short_folder() as folder:
        folder.chmod(0o755)
        config = folder / "sparkd.toml"
        config.write_text(NODE.format(folder))
        (folder / "state").mkdir(mode=0o700)
        os.chown(folder / "state", 12345, 12346)

        assert ctl(config, "keys", "new") == 0
        assert os.geteuid() == 0

        made = [folder / "state" / "keys", *(folder / "state" / "keys").rglob("*")]
        assert {path.name for path in made} == {"keys", "invites", "trusted", "node.secret", "node.public"}
        assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12346)}


def test_every_problem_is_an_item_for_scripts(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    extend(config, "[rpc]\na = 1\nb = 2\n")

    assert ctl(config, "keys", "show", "--json") == BAD_CONFIG
    assert len(json.loads(capfd.readouterr().err)["problems"]) == 2
