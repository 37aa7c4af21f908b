from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sparkd import ConfigError
from sparkd.config import (
    Config,
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
    assert node_id(tmp_path) == first
    (tmp_path / "node_id").write_text("garbage")
    with pytest.raises(ConfigError, match="damaged"):
        node_id(tmp_path)


def test_show_hides_secrets_and_flattens_plugins(tmp_path: Path) -> None:
    file = write(tmp_path, '[plugins.x]\nown = "y"\n')
    shown = show(load_config(file))

    assert shown["plugins"]["x"]["own"] == "y"
    assert "hunter2" not in str(Secret("hunter2", "file x"))


def test_a_secret_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        Secret("x", "y").__reduce__()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schemed:
    """What it is for."""

    port: int
    home: Path = Path("/x")
    token: Secret | None = None
    rate: float = 0.5


def test_a_schema_has_types_defaults_and_the_docstring() -> None:
    schema = config_schema(Schemed)
    body = schema["$defs"]["Schemed"]

    assert body["description"] == "What it is for."
    assert body["required"] == ["port"]
    assert body["properties"]["rate"]["default"] == 0.5
    assert body["properties"]["home"]["default"] == "/x"


def test_the_whole_configs_own_tables_have_schemas() -> None:
    for name in ("node", "bus", "rpc", "link", "outbox"):
        assert config_schema(type(getattr(Config(), name)))
