"""What a running daemon takes over from a config that was read again, and what is hidden when it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sparkd.config import Secret, config_schema, load_config, needs_restart, secret_keys, show, take_over


@dataclass(frozen=True, kw_only=True)
class Door:
    opener: Secret
    colour: str = "red"


@dataclass(frozen=True, kw_only=True)
class House:
    doors: list[Door] = field(default_factory=list)
    cellar: Secret | None = None
    spare: list[Secret] = field(default_factory=list)


def test_plugins_are_taken_over_and_the_core_is_not(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text("[bus]\nhigh_water_messages = 100\n[plugins.a]\nx = 1\n")
    held = load_config(file)
    file.write_text("[bus]\nhigh_water_messages = 200\n[plugins.b]\n")
    fresh = load_config(file)
    taken = take_over(held, fresh)

    assert taken.bus == held.bus
    assert taken.plugins == fresh.plugins
    assert needs_restart(taken, fresh) == ["bus"]
    assert "plugins.a" not in taken.origins


def test_secrets_are_known_by_their_type_at_any_depth() -> None:
    assert secret_keys(config_schema(House)) == {"opener", "cellar", "spare"}


def test_what_is_known_to_be_a_secret_is_hidden_but_not_its_name(tmp_path: Path) -> None:
    file = tmp_path / "sparkd.toml"
    file.write_text('[plugins.house]\ncellar = "sesame"\nspare = ["sesame"]\ndoors = [{opener = {env = "DOOR"}}]\n')
    shown = show(load_config(file), {"house": {"opener", "cellar", "spare"}})

    assert "sesame" not in str(shown)
    assert shown["plugins"]["house"]["doors"] == [{"opener": {"env": "DOOR"}}]
