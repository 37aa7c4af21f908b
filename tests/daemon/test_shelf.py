"""A kept version holds what its name says, or is not kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkd.daemon.last_good import Shelf


def test_a_file_that_changes_between_look_and_copy_is_not_kept_under_the_old_name(tmp_path: Path) -> None:
    main = tmp_path / "sparkd.toml"
    main.write_text("# one\n")
    shelf = Shelf(folder=tmp_path / "kept", main=main, plugins=())
    version = shelf.on_disk()
    main.write_text("# two\n")

    with pytest.raises(OSError, match="changed while it was read"):
        shelf.keep(version)
    assert list(shelf.versions.iterdir()) == []

    shelf.keep(shelf.on_disk())
    assert [path.name for path in shelf.versions.iterdir()] == [shelf.on_disk().name]
