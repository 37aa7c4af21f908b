from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

import sparkd
from sparkd.registry import FailureKind, SourceKind, discover
from sparkd.registry.discover import candidates, distrust, fingerprint, is_plugin_name, locate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    return made


def make_folder_plugin(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir(mode=0o755)
    (made / "__init__.py").write_text("from . import device\n")
    (made / "device.py").write_text("x = 1\n")
    return made


def test_files_and_folders_with_code_are_found_and_nothing_else(folder: Path) -> None:
    for name in ("door_bell.py", ".hidden.py", "_private.py", "notes.txt", "#x.py#", "x.py~", ".#x.py", "y.py.swp"):
        (folder / name).write_text("")
    make_folder_plugin(folder, "garden")
    make_folder_plugin(folder, "_off")
    (folder / "empty").mkdir()

    found = discover([folder], group=None)

    assert [(source.name, source.kind) for source in found.sources] == [
        ("door-bell", SourceKind.DROP_IN),
        ("garden", SourceKind.DROP_IN),
    ]
    assert found.refused == ()


def test_a_missing_folder_holds_nothing(tmp_path: Path) -> None:
    assert discover([tmp_path / "none"], group=None).sources == ()
    assert candidates(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("mode", "what"), [(0o664, "file"), (0o646, "file"), (0o775, "folder"), (0o777, "folder"), (0o666, "inner")]
)
def test_what_others_may_write_is_refused(folder: Path, mode: int, what: str) -> None:
    path = make_folder_plugin(folder, "garden")
    suspect = {"file": path / "__init__.py", "folder": folder, "inner": path / "device.py"}[what]
    suspect.chmod(mode)

    (result,) = discover([folder], group=None).refused

    assert result.failure is not None
    assert result.failure.kind is FailureKind.REFUSED
    assert str(result.failure) == f"{suspect}: {suspect} can be written by others than its owner (chmod go-w {suspect})"


def test_what_belongs_to_others_is_refused(folder: Path) -> None:
    (folder / "a.py").write_text("")

    (result,) = discover([folder], group=None, owners={os.geteuid() + 1}).refused

    assert result.failure is not None
    assert f"belongs to uid {os.geteuid()}, not to root or the daemon's user" in result.failure.message


def test_a_link_is_as_trustworthy_as_what_it_points_to(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.py"
    target.write_text("")
    (folder / "a.py").symlink_to(target)
    assert len(discover([folder], group=None).sources) == 1

    target.chmod(0o666)
    assert len(discover([folder], group=None).refused) == 1


def test_a_dangling_link_is_refused_not_raised(folder: Path) -> None:
    (folder / "a.py").symlink_to(folder / "none")

    (result,) = discover([folder], group=None).refused

    assert result.failure is not None
    assert "cannot be read" in result.failure.message


@pytest.mark.parametrize("name", ["Door.py", "1st.py", "a b.py", "a__b.py"])
def test_a_name_that_cannot_be_a_plugins_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("")

    (result,) = discover([folder], group=None).refused

    assert result.failure is not None
    assert result.failure.remedy == "rename it"


def test_distrust_says_why(folder: Path) -> None:
    assert distrust(folder.stat(), {folder.stat().st_uid}) == ""


@pytest.mark.parametrize(("name", "expected"), [("a.py", True), ("a~", False), (".a", False), ("_a", False)])
def test_plugin_names(name: str, *, expected: bool) -> None:
    assert is_plugin_name(name) is expected


def test_the_hash_follows_the_content(folder: Path) -> None:
    path = make_folder_plugin(folder, "garden")
    first = fingerprint(path, "garden")
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "device.pyc").write_bytes(b"x")
    assert fingerprint(path, "garden") == first
    assert fingerprint(path, "other") != first

    (path / "device.py").write_text("x = 2\n")
    second = fingerprint(path, "garden")
    (path / "device.py").rename(path / "device2.py")

    assert len({first, second, fingerprint(path, "garden")}) == 3


def test_a_large_file_counts_by_size_and_time(folder: Path) -> None:
    path = make_folder_plugin(folder, "garden")
    model = path / "model.onnx"
    model.write_bytes(b"x" * (1 << 20) + b"x")
    first = fingerprint(path)
    os.utime(model, (1, 1))

    assert fingerprint(path) != first


def install(site: Path, *, value: str) -> None:
    """Make what an installed wheel leaves: a package and its metadata."""
    package = site / "strangers_wheel"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported in the core')\n")
    (package / "plugin.py").write_text("x = 1\n")
    info = site / "strangers_wheel-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-wheel\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[sparkd-test]\nstranger = {value}\n")


def test_an_installed_plugin_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, value="strangers_wheel.plugin:hooks")
    monkeypatch.syspath_prepend(str(tmp_path))

    (source,) = discover([], group="sparkd-test").sources

    assert (source.name, source.kind, source.entry) == ("stranger", "entry-point", "strangers_wheel.plugin:hooks")
    assert (source.distribution, source.path) == ("strangers-wheel 1.2", str(tmp_path / "strangers_wheel"))
    assert "strangers_wheel" not in sys.modules


def test_an_entry_point_to_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, value="strangers_wheel.none")
    monkeypatch.syspath_prepend(str(tmp_path))

    (result,) = discover([], group="sparkd-test").refused

    assert result.failure is not None
    assert result.failure.kind is FailureKind.MISSING
    assert "strangers_wheel.none" in result.failure.message


def test_locate() -> None:
    root = Path(sparkd.__file__).parent
    assert locate("sparkd") == root
    assert locate("sparkd.steps") == root
    assert locate("sparkd.registry") == root / "registry"
    assert locate("this_is.not_there") is None
    assert locate("msgpack.none") is None
    assert locate("argparse") == Path(argparse.__file__)
