"""The switches that `sparkctl plugin enable|disable` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.config import load_config
from sparkd.daemon import toggles
from sparkd.errors import ConfigError


def test_switches_are_kept_win_over_the_config_and_can_be_taken_back(tmp_path: Path) -> None:
    main = tmp_path / "sparkd.toml"
    main.write_text("[plugins.a]\nspeed = 3\n")
    toggles.write(tmp_path, "a", enabled=False)
    toggles.write(tmp_path, "b", enabled=True)
    found = load_config(main).plugins
    assert (found["a"].enabled, found["a"].table, found["b"].enabled) == (False, {"speed": 3}, True)

    toggles.write(tmp_path, "a", enabled=True)
    assert load_config(main).plugins["a"].enabled
    assert [file.name for file in (tmp_path / "switches").iterdir()] == [toggles.FILE]


@pytest.mark.parametrize("content", ["plugins = 3\n", "not toml", "\xff"])
def test_a_damaged_file_is_told_and_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "switches" / toggles.FILE
    file.parent.mkdir()
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="mend or remove it"):
        toggles.write(tmp_path, "a", enabled=False)
    assert file.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("name", ["", "A", "a]\n[x", "../a", "a.b"])
def test_a_name_that_cannot_be_a_plugins_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        toggles.write(tmp_path, name, enabled=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    ["[link]\nlisten = '0.0.0.0:1'\n", "[plugins.a]\nisolation = 'inline'\n", "[plugins.a]\nenabled = 'yes'\n"],
)
def test_nothing_but_switches_is_read_from_there(tmp_path: Path, content: str) -> None:
    """The daemon's user writes there: who has taken it over must not be able to change the config with it."""
    main = tmp_path / "sparkd.toml"
    main.write_text("")
    (tmp_path / "switches").mkdir()
    (tmp_path / "switches" / "x.toml").write_text(content)

    with pytest.raises(ConfigError, match="place here"):
        load_config(main)
    assert load_config(main, switches=False).link.listen == ""
