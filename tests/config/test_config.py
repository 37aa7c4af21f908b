from __future__ import annotations

import dataclasses
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from sparkd import ConfigError
from sparkd.config import (
    Config,
    NodeConfig,
    Secret,
    changed_plugins,
    config_schema,
    find_config,
    load_config,
    load_places,
    make,
    needs_restart,
    node_id,
    show,
)


def write(folder: Path, text: str, **drop_ins: str) -> Path:
    file = folder / "sparkd.toml"
    file.write_text(text)
    (folder / "sparkd.d").mkdir(exist_ok=True)
    for name, drop_in in drop_ins.items():
        (folder / "sparkd.d" / f"{name}.toml").write_text(drop_in)
    return file


def test_nothing_configured_is_a_config() -> None:
    config = load_config(None)

    assert config.node.role == "edge"
    assert config.plugins == {}


def test_drop_ins_are_laid_over_in_order(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[node]\nname = "a"\nsite = "s"\n[plugins.x]\nkeep = 1\nchange = 1\n[plugins.x.deep]\na = 1\n',
        b='[node]\nname = "b"\n[plugins.x]\nchange = 2\n[plugins.x.deep]\nb = 2\n',
        c='[node]\nname = "c"\n',
    )
    config = load_config(file)

    assert (config.node.name, config.node.site) == ("c", "s")
    assert config.plugins["x"].table == {"keep": 1, "change": 2, "deep": {"a": 1, "b": 2}}
    assert len(config.files) == 3


def test_the_cores_keys_are_told_from_the_plugins_own(tmp_path: Path) -> None:
    file = write(tmp_path, '[plugins.x]\nenabled = false\ncritical = true\nisolation = "inline"\nown = "y"\n')
    table = load_config(file).plugins["x"]

    assert (table.enabled, table.critical, table.isolation) == (False, True, "inline")
    assert table.table == {"own": "y"}


def test_what_changed_between_two_configs(tmp_path: Path) -> None:
    old = load_config(write(tmp_path, "[plugins.a]\nx = 1\n[plugins.b]\n[plugins.c]\n"))
    new = load_config(
        write(tmp_path, "[plugins.a]\nx = 2\n[plugins.b]\n[plugins.d]\n[bus]\nhigh_water_messages = 99\n")
    )

    assert changed_plugins(old, new) == {"a", "c", "d"}
    assert needs_restart(old, new) == ["bus"]


def test_a_config_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: no such file"):
        find_config(tmp_path / "x.toml")


def test_folders_come_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME", "STATE", "CACHE", "CONFIGURATION"):
        monkeypatch.setenv(f"{name}_DIRECTORY", str(tmp_path / name.lower()))
    _, found = load_places(None)

    assert (found.runtime, found.state, found.cache) == tuple(tmp_path / n for n in ("runtime", "state", "cache"))
    assert found.plugins == (tmp_path / "configuration" / "plugins",)
    make(found)
    assert found.state.is_dir()


def test_the_node_id_is_made_once_and_never_silently_replaced(tmp_path: Path) -> None:
    first = node_id(tmp_path)

    assert len(first) == 32
    assert stat.S_IMODE((tmp_path / "node_id").stat().st_mode) == 0o600
    assert node_id(tmp_path) == first
    (tmp_path / "node_id").write_text("garbage")
    with pytest.raises(ConfigError, match="damaged"):
        node_id(tmp_path)


def test_show_flattens_plugins_and_says_where_each_key_is_from(tmp_path: Path) -> None:
    file = write(tmp_path, '[node]\nname = "a"\n[plugins.x]\nown = "y"\n', late='[node]\nname = "b"\n')
    shown = show(load_config(file))

    assert shown["plugins"]["x"]["own"] == "y"
    assert shown["node"]["name"] == "b"
    assert shown["origins"]["node.name"] == str(tmp_path / "sparkd.d" / "late.toml")
    assert shown["origins"]["plugins.x.own"] == str(file)
    assert "plugins.x" not in shown["origins"]


def test_show_hides_what_was_written_where_a_secret_should_be_named(tmp_path: Path) -> None:
    lines = (
        '[plugins.x]\npassword = "hunter2"\napi_key = ["hunter2"]\ntoken = { value = "hunter2" }',
        'secret = 2222\nurl = "postgresql://me:hunter2@db/x"\nmax_tokens = 512',
        'credential = { file = "/etc/secret" }\n[[plugins.x.many]]\npassphrase = "hunter2"',
    )
    shown = show(load_config(write(tmp_path, "\n".join(lines) + "\n")))["plugins"]["x"]

    assert "hunter2" not in str(shown)
    assert shown["secret"] == "(hidden)"
    assert shown["url"] == "postgresql://me:(hidden)@db/x"
    assert shown["credential"] == {"file": "/etc/secret"}
    assert shown["max_tokens"] == 512


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2", "file x")

    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret == Secret("hunter2", "elsewhere")


def test_an_editors_hidden_file_is_no_drop_in(tmp_path: Path) -> None:
    file = write(tmp_path, "", a='[node]\nname = "a"\n')
    (tmp_path / "sparkd.d" / ".b.toml").write_text("half a [")
    (tmp_path / "sparkd.d" / "a.toml~").write_text("[[[")

    assert load_config(file).files == (file, tmp_path / "sparkd.d" / "a.toml")


def test_moving_a_key_to_another_file_is_no_change(tmp_path: Path) -> None:
    old = load_config(write(tmp_path, "[plugins.a]\nx = 1\n"))
    new = load_config(write(tmp_path, "", a="[plugins.a]\nx = 1\n"))

    assert changed_plugins(old, new) == set()
    assert old == dataclasses.replace(new, files=old.files)


@pytest.mark.parametrize(
    ("host", "name"),
    [("Control-PC.home.lan", "control-pc-home-lan"), ("3dprinter", "node-3dprinter"), ("___", "node"), ("", "node")],
)
def test_any_host_name_makes_a_node_name(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)

    assert NodeConfig().name == name


def test_a_secret_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        Secret("x", "y").__reduce__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Within:
    home: Path = Path("/y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemed:
    """What it is for."""

    port: int
    """Where it
    listens."""
    home: Path = Path("/x")
    token: Secret | None = None
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")
    within: Within = field(default_factory=Within)
    tables: dict[str, Within] = field(default_factory=dict)
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "x")


def test_a_schema_has_types_defaults_and_docstrings() -> None:
    schema = config_schema(Schemed)
    properties = schema["properties"]

    assert schema["description"] == "What it is for."
    assert schema["required"] == ["port"]
    assert schema["additionalProperties"] is False
    assert properties["port"]["description"] == "Where it listens."
    assert properties["rate"] == {"type": "number", "default": 0.5}
    assert properties["home"]["default"] == "/x"
    assert properties["names"]["default"] == ["a", "b"]
    assert properties["within"]["default"] == {"home": "/y"}
    assert properties["within"]["properties"]["home"]["default"] == "/y"
    assert properties["share"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5}
    assert properties["mode"] == {"enum": ["a", "b"], "default": "a"}
    assert properties["pair"]["prefixItems"] == [{"type": "integer"}, {"type": "string"}]
    assert properties["tables"]["additionalProperties"]["properties"].keys() == {"home"}
    assert "credential" in str(properties["token"])


def test_a_field_named_like_a_key_of_every_plugin_is_refused() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Clash:
        enabled: bool = True

    with pytest.raises(TypeError, match="'enabled' has the name of a key that every plugin's table has"):
        config_schema(Clash)


def test_a_field_that_no_table_can_hold_is_named() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Odd:
        what: complex = 1j

    with pytest.raises(TypeError, match="'what' has no schema"):
        config_schema(Odd)


def test_the_whole_configs_own_tables_have_schemas() -> None:
    for name in ("node", "bus", "rpc", "link", "outbox"):
        assert config_schema(type(getattr(Config(), name)))
