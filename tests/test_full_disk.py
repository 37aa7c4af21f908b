"""Keys, identity and switches on a disk that takes nothing more: the old or the new, whole, and the reason why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sparkd.config import node_id
from sparkd.daemon import toggles
from sparkd.errors import ConfigError
from sparkd.link import KeyStore


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KB."""
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["/bin/umount", "-l", tmp_path], check=True)


def fill(disk: Path) -> Path:
    stuff = disk / "stuff"
    with suppress(OSError), stuff.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return stuff


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_new_key_that_finds_no_room_leaves_the_old_one(disk: Path) -> None:
    keys = KeyStore(disk / "keys")
    keys.new()
    before = keys.load()
    (disk / "keys" / "node.public").unlink()  # its room would do
    stuff = fill(disk)
    with pytest.raises(OSError, match="No space left"):
        keys.new(force=True)

    assert keys.load() == before
    stuff.unlink()
    assert keys.new(force=True) == keys.load().public != before.public


def test_a_new_key_takes_the_room_of_the_old_one(disk: Path) -> None:
    keys = KeyStore(disk / "keys")
    before = keys.new()
    fill(disk)

    assert keys.new(force=True) == keys.load().public != before


def test_an_identity_that_finds_no_room_is_not_half_there(disk: Path) -> None:
    stuff = fill(disk)
    with pytest.raises((OSError, ConfigError), match="No space left"):
        node_id(disk)

    assert files(disk).keys() == {"stuff"}
    stuff.unlink()
    assert node_id(disk) == node_id(disk)


def test_a_switch_that_finds_no_room_stays_as_it_was(disk: Path) -> None:
    for name in ("one", "two"):
        toggles.write(disk, name, False)  # noqa: FBT003 - called through a thread
    folder = disk / "switches"
    before, stuff = files(folder), fill(disk)
    with pytest.raises(OSError, match="No space left"):
        toggles.write(disk, "three", False)  # noqa: FBT003 - as above

    assert files(folder) == before
    stuff.unlink()
    toggles.write(disk, "three", False)  # noqa: FBT003 - as above
    assert files(folder) != before
