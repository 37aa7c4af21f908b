"""Config files and folders that are not what they should be."""

from __future__ import annotations

import datetime as dt
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from sparkd.config import decode_table, find_config, load_config, node_id
from sparkd.errors import ConfigError


def problem(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    return str(caught.value)


def test_a_pipe_a_folder_and_a_huge_file_are_refused_at_once(tmp_path: Path) -> None:
    main, folder = tmp_path / "sparkd.toml", tmp_path / "sparkd.d"
    main.write_text("")
    folder.mkdir()
    os.mkfifo(folder / "a.toml")
    assert "a.toml: not a file" in problem(main)
    (folder / "a.toml").unlink()
    (folder / "a.toml").mkdir()
    assert "a.toml" in problem(main)
    (folder / "a.toml").rmdir()
    with (folder / "a.toml").open("wb") as huge:
        huge.truncate(1 << 40)
    assert "larger than" in problem(main)
    (folder / "a.toml").unlink()
    (folder / "a.toml").symlink_to("nowhere")
    assert "No such file" in problem(main)


def test_later_drop_ins_win_through_symlinks_too(tmp_path: Path) -> None:
    main, folder = tmp_path / "sparkd.toml", tmp_path / "sparkd.d"
    folder.mkdir()
    main.write_text('[node]\nsite = "a"\n')
    (tmp_path / "real").write_text('[node]\nsite = "c"\n')
    (folder / "20.toml").symlink_to(tmp_path / "real")
    (folder / "10.toml").write_text('[node]\nsite = "b"\n')
    assert load_config(main).node.site == "c"


@pytest.mark.parametrize("content", ["[plugins.p]\n" + ".".join("a" * 5000) + " = 1\n", "x = " + "[" * 5000])
def test_what_is_nested_too_deeply_is_refused(tmp_path: Path, content: str) -> None:
    main = tmp_path / "sparkd.toml"
    main.write_text(content)
    assert "nested too deeply" in problem(main)


def test_a_usual_folder_that_is_closed_to_us_has_no_config_for_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sparkd.toml").write_text("")
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", "/closed")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path.parent))
    is_file = Path.is_file

    def refuses(path: Path) -> bool:  # what stat(2) says to whoever may not enter the folder; root may enter all
        if path.parent == Path("/closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuses)
    assert find_config() != Path("/closed/sparkd.toml")


def test_a_node_id_that_many_make_at_once_is_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: node_id(tmp_path), range(64)))
    assert len(found) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["node_id"]


def test_a_node_id_that_cannot_be_made_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="node_id: cannot be made: No such file"):
        node_id(tmp_path / "nowhere")


@dataclass(frozen=True, kw_only=True)
class Dated:
    day: dt.date
    at: dt.time
    since: dt.datetime


def test_dates_survive_the_way_into_a_child() -> None:
    table = {"day": dt.date(2026, 1, 2), "at": dt.time(3, 4), "since": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)}
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(table))
    assert decode_table(Dated, sent, where="plugins.p") == decode_table(Dated, table, where="plugins.p")
    with pytest.raises(ConfigError, match=r"day: got 'soon' \(text\); a date expected"):
        decode_table(Dated, {**table, "day": "soon"}, where="plugins.p")
