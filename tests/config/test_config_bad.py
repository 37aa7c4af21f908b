"""Bad configs: each is answered by a sentence that says where, what was got, and what would be right."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from sparkd import ConfigError
from sparkd.config import Secret, decode_table, load_config

CASES = [
    ("node", "name = 3", ["[node] name: got 3 (a whole number); text expected"]),
    ("node", 'name = "Control PC"', ["[node] name: lower-case words joined by hyphens expected, got 'Control PC'"]),
    ("node", 'nam = "x"', ["[node] nam: unknown key; did you mean 'name'?"]),
    ("node", 'role = "hub"', ["[node] role: got 'hub' (text); one of 'cloud', 'edge' expected"]),
    ("node", "role = true", ["[node] role: got True (true or false); one of 'cloud', 'edge' expected"]),
    ("node", 'site = ""', ["[node] site: lower-case words"]),
    ("node", 'inline = "x"', ["[node] inline: got 'x' (text); a list expected"]),
    ("node", "inline = [1]", ["[node] inline[0]: got 1 (a whole number); text expected"]),
    ("node", "plugin_dirs = [1]", ["[node] plugin_dirs[0]: got 1 (a whole number); a path expected"]),
    ("node", "state_dir = 5", ["[node] state_dir: got 5 (a whole number); a path expected"]),
    ("node", 'metrics_listen = "9464"', ["[node] metrics_listen: host:port expected, such as", "got '9464'"]),
    ("node", 'metrics_listen = "h:99999"', ["[node] metrics_listen: host:port expected"]),
    ("node", 'log_level = "loud"', ["[node] log_level: got 'loud' (text); one of 'debug', 'error'"]),
    ("bus", "high_water_messages = 1.5", ["[bus] high_water_messages: got 1.5 (a number); a whole number expected"]),
    ("bus", "high_water_messages = true", ["[bus] high_water_messages: got True (true or false); a whole number"]),
    ("bus", "high_water_messages = 1", ["[bus] high_water_messages: 10 to 1e+07 expected, got 1"]),
    ("bus", "highwater = 1", ["[bus] highwater: unknown key; did you mean 'high_water_messages'?"]),
    ("rpc", "line_timeout_s = inf", ["[rpc] line_timeout_s: got inf; a finite number expected"]),
    ("rpc", "line_timeout_s = nan", ["[rpc] line_timeout_s: got nan; a finite number expected"]),
    ("rpc", 'line_timeout_s = "5s"', ["[rpc] line_timeout_s: got '5s' (text); a number expected"]),
    ("rpc", "line_timeout_s = -1", ["[rpc] line_timeout_s: 0.1 to 3600 expected, got -1"]),
    ("rpc", "max_line_bytes = 0", ["[rpc] max_line_bytes: 1024 to"]),
    ("rpc", 'readers = "some"', ["[rpc] readers: got 'some' (text); one of 'admins', 'anyone' expected"]),
    ("link", 'listen = "7700"', ["[link] listen: host:port expected"]),
    ("link", "peers = 1", ["[link] peers: got 1 (a whole number); a table expected"]),
    ("link.peers.a", 'address = "x"', ["[link] peers.a.address: host:port expected"]),
    ("link.peers.a", 'adress = "x:1"', ["[link] peers.a.adress: unknown key; did you mean 'address'?"]),
    ("link.peers.a", 'send = ["Edge"]', ["[link] peers.a.send: topics such as 'edge.telemetry' expected, got 'Edge'"]),
    ("link.peers.a", 'calls = ["ingest"]', ["[link] peers.a.calls: 'interface.method'"]),
    ("link.peers.A", "", ["[link] peers.A: lower-case words joined by hyphens expected, got 'A'"]),
    ("outbox", "segment_bytes = 17000000", ["[outbox] segment_bytes: 262144 to"]),
    ("outbox", "max_age_s = -1", ["[outbox] max_age_s: 0 to"]),
    ("plugins.x", "enabeld = false\nenabled = 1", ["[plugins.x] enabled: got 1 (a whole number); true or false"]),
    ("plugins", "x = 1", ["[plugins.x]: a table expected"]),
    ("plugins.X", "", ["[plugins.X]: a plugin's name is lower-case words"]),
    ("plugins.x", 'enabled = "yes"', ["[plugins.x] enabled: got 'yes' (text); true or false expected"]),
    ("plugins.x", 'isolation = "thread"', ["[plugins.x] isolation: got 'thread' (text); one of 'inline', 'process'"]),
    ("plugins.x", 'energy = "low"', ["[plugins.x] energy: got 'low' (text); one of 'deferrable', 'essential'"]),
    ("plugins.x", "start_limit_s = 0", ["[plugins.x] start_limit_s: 0.1 to 3600 expected, got 0"]),
    ("plugins.x", "watchdog_s = nan", ["[plugins.x] watchdog_s: got nan; a finite number expected"]),
    ("plugin.x", "a = 1", ["[plugin]: unknown table; did you mean 'plugins'?"]),
    ("nodes", "a = 1", ["[nodes]: unknown table; did you mean 'node'?"]),
]


@pytest.mark.parametrize(("table", "line", "said"), CASES, ids=[f"{t}-{line[:30]}" for t, line, _ in CASES])
def test_bad_config(tmp_path: Path, table: str, line: str, said: list[str]) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text(f"[{table}]\n{line}\n")

    with pytest.raises(ConfigError) as raised:
        load_config(file)

    assert len(raised.value.problems) == 1
    for words in (str(file), *said):
        assert words in raised.value.problems[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[node\n", "not TOML: "),
        (b'[node]\nname = "a"\nname = "b"\n', "not TOML: "),
        (b"\xff\xfe", "not UTF-8 text at byte 0"),
        (b"name = 1\n", "name: a key outside of a table; known: access"),
        (b"x = " + b"[" * 100_000, "not TOML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_bytes(text)

    with pytest.raises(ConfigError) as raised:
        load_config(file)

    assert said.removesuffix(": ") in str(raised.value) or "nested too deeply" in str(raised.value)
    assert str(file) in str(raised.value)


def test_all_problems_are_told_at_once_each_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "sparkd.toml").write_text('[node]\nname = 3\nrole = "x"\n[bus]\nfoo = 1\n')
    (tmp_path / "sparkd.d").mkdir()
    (tmp_path / "sparkd.d" / "a.toml").write_text('[rpc]\nreaders = "x"\n[node]\nsite = 4\n')
    (tmp_path / "sparkd.d" / "b.toml").write_text("[[[\n")

    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "sparkd.toml")

    problems = raised.value.problems
    assert len(problems) == 6
    assert any("a.toml: [node] site" in p for p in problems)
    assert any("sparkd.toml: [node] name" in p for p in problems)
    assert any("b.toml: not TOML" in p for p in problems)


def test_the_file_that_is_named_is_the_one_with_the_mistake(tmp_path: Path) -> None:
    (tmp_path / "sparkd.toml").write_text('[link.peers.a]\nadress = "x:1"\n[plugins.x]\nenergy = "low"\nbad = 1\n')
    (tmp_path / "sparkd.d").mkdir()
    (tmp_path / "sparkd.d" / "a.toml").write_text('[link.peers.b]\naddress = "h"\n[plugins.x]\ncritical = 3\n')

    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "sparkd.toml")

    assert [problem.partition(": got")[0].partition(": host")[0] for problem in raised.value.problems] == [
        f"{tmp_path}/sparkd.toml: [link] peers.a.adress: unknown key; did you mean 'address'?",
        f"{tmp_path}/sparkd.d/a.toml: [link] peers.b.address",
        f"{tmp_path}/sparkd.toml: [plugins.x] energy",
        f"{tmp_path}/sparkd.d/a.toml: [plugins.x] critical",
    ]


def test_a_plugins_process_names_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "sparkd.toml").write_text("[plugins.x]\nneeded = 1\nenabeld = false\n")
    (tmp_path / "sparkd.d").mkdir()
    (tmp_path / "sparkd.d" / "a.toml").write_text("[plugins.x]\nshare = 7\n")
    table = load_config(tmp_path / "sparkd.toml").plugins["x"]

    assert table.origin == f"{tmp_path}/sparkd.toml, {tmp_path}/sparkd.d/a.toml"
    with pytest.raises(ConfigError) as raised:
        decode_table(Own, table.table, where="plugins.x", origins=table.origins)
    assert raised.value.problems[0] == (
        f"{tmp_path}/sparkd.toml: [plugins.x] enabeld: unknown key; did you mean 'enabled'?"
    )
    assert raised.value.problems[1].startswith(f"{tmp_path}/sparkd.d/a.toml: [plugins.x] share: got 7")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    url: str
    port: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    needed: int
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    mode: Literal["a", "b"] = "a"
    password: Secret | None = None
    where: Path | None = None
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, Inner] = field(default_factory=dict)
    either: int | str = 1
    pair: tuple[int, str] = (1, "x")
    several: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)] = field(default_factory=lambda: [1])
    unique: frozenset[str] = frozenset()
    day: date | None = None
    volume: Annotated[int, msgspec.Meta(ge=0, le=11, description="a volume from 0 to 11")] = 5
    access_key: int = 0

    def __post_init__(self) -> None:
        if self.needed == 13:
            raise ValueError("needed: not thirteen")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "needed: is missing; a whole number expected"),
        ({"needed": 13}, "needed: not thirteen"),
        ({"needed": 1, "share": 2}, "share: got 2 (a whole number); a number expected"),
        ({"needed": 1, "mode": "c"}, "mode: got 'c' (text); one of 'a', 'b' expected"),
        ({"needed": 1, "many": [{"url": "x"}, {"port": 2}]}, "many[1].url: is missing; text expected"),
        ({"needed": 1, "by_name": {"k": {"url": 1}}}, "by_name.k.url: got 1"),
        ({"needed": 1, "either": []}, "either: got a list"),
        ({"needed": 1, "where": {}}, "where: got a table; a path expected"),
        ({"needed": 1, "pair": [1]}, "pair: got 1 entries; exactly 2 expected"),
        ({"needed": 1, "pair": [1, 2]}, "pair[1]: got 2 (a whole number); text expected"),
        ({"needed": 1, "several": []}, "several: got 0 entries; 1 to 2 expected"),
        ({"needed": 1, "unique": ["a", 1]}, "unique[1]: got 1 (a whole number); text expected"),
        ({"needed": 1, "day": "monday"}, "day: got 'monday' (text); a date expected"),
        (
            {"needed": 1, "volume": 12},
            "volume: got 12 (a whole number); a whole number expected (Expected `int`",
        ),
        ({"needed": 1, "access_key": "hunter2"}, "access_key: got something else; a whole number expected"),
    ],
)
def test_a_plugins_own_table(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode_table(Own, table, where="plugins.own", file="f.toml")

    assert f"f.toml: [plugins.own] {said}" in str(raised.value)


def test_every_kind_of_field_is_taken() -> None:
    table = {"needed": 1, "pair": [2, "y"], "several": [1, 2], "unique": ["a"], "day": date(2026, 1, 2)}
    own = decode_table(Own, table, where="plugins.own")

    assert (own.pair, own.several, own.unique) == ((2, "y"), [1, 2], frozenset("a"))
    assert own.day == date(2026, 1, 2)


@pytest.mark.parametrize(
    "written",
    ["hunter2", ["hunter2"], {"value": "hunter2"}, {"env": "NO_SUCH", "file": "hunter2"}, {"plain": "hunter2"}, 42],
)
def test_a_secret_that_was_written_down_is_refused_and_not_repeated(written: object) -> None:
    with pytest.raises(ConfigError) as raised:
        decode_table(Own, {"needed": 1, "password": written}, where="plugins.own")

    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(raised.value)
    assert "[plugins.own] password" in str(raised.value)


def test_secrets_come_from_files_credentials_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    file.chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("PASSWORD", "hunter2")

    for named in ({"file": str(file)}, {"credential": "password"}, {"env": "PASSWORD"}):
        own = decode_table(Own, {"needed": 1, "password": named}, where="plugins.own")
        assert own.password is not None
        assert own.password.reveal() == "hunter2"
        assert "hunter2" not in repr(own)


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2")
    file.chmod(0o644)

    with pytest.raises(ConfigError, match="chmod 600"):
        decode_table(Own, {"needed": 1, "password": {"file": str(file)}}, where="plugins.own")


def test_a_pipe_or_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe, 0o600)
    empty.write_text("\n")
    empty.chmod(0o600)

    for file, said in ((pipe, "not a file"), (empty, "empty"), (tmp_path / "none", "No such file")):
        with pytest.raises(ConfigError, match=said):
            decode_table(Own, {"needed": 1, "password": {"file": str(file)}}, where="plugins.own")


def test_a_secret_keeps_its_spaces(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" hunter 2 \n")
    file.chmod(0o600)

    own = decode_table(Own, {"needed": 1, "password": {"file": str(file)}}, where="plugins.own")
    assert own.password is not None
    assert own.password.reveal() == " hunter 2 "
