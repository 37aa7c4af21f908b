"""Which daemon a command speaks to, if it is not told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sparkd.config import find_socket, places
from sparkd.errors import ConfigError


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the system's socket, with nothing there; a person's own daemon would be in `own`."""
    config = tmp_path / "etc"
    config.mkdir()
    (config / "sparkd.toml").write_text("")
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(config))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "own"))
    socket = tmp_path / "system" / "sparkd.sock"
    socket.parent.mkdir()
    monkeypatch.setattr(sys.modules[places.__module__], "SYSTEM_SOCKET", socket)
    return socket


def test_ones_own_daemon_comes_first_then_the_systems(system: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "sparkd.sock"
    assert find_socket(None) == own, "nothing is there: the message names one's own"

    system.touch()
    assert find_socket(None) == system
    assert find_socket(tmp_path / "etc" / "sparkd.toml") == own, "a config that is named is taken at its word"

    own.parent.mkdir()
    own.touch()
    assert find_socket(None) == own


def test_the_systems_daemon_is_found_though_the_config_has_errors(system: Path, tmp_path: Path) -> None:
    (tmp_path / "etc" / "sparkd.toml").write_text("[bus]\nhigh_water = 7\n")
    with pytest.raises(ConfigError, match="high_water"):
        find_socket(None)

    system.touch()
    assert find_socket(None) == system
