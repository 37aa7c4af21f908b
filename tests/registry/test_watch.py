from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from sparkd.registry import Changes, DropInWatch
from sparkd.registry.watch import difference

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "etc" / "plugins"
    made.mkdir(parents=True)
    (made / "old.py").write_text("old")
    return made


@pytest.fixture
async def watch(anyio_backend: str, folder: Path) -> AsyncIterator[DropInWatch]:
    async with DropInWatch([folder]) as opened:
        yield opened


async def following(watch: DropInWatch, *, within_s: float = 2) -> Changes:
    with anyio.fail_after(within_s):
        return await watch.__anext__()


async def silence(watch: DropInWatch, *, for_s: float = 0.2) -> bool:
    """Whether nothing is reported for a while."""
    with anyio.move_on_after(for_s):
        await watch.__anext__()
        return False
    return True


def changes(
    *, added: set[Path] | None = None, changed: set[Path] | None = None, removed: set[Path] | None = None
) -> Changes:
    return Changes(frozenset(added or ()), frozenset(changed or ()), frozenset(removed or ()))


async def test_a_file_that_is_added_changed_and_removed(watch: DropInWatch, folder: Path) -> None:
    new = folder / "new.py"
    new.write_text("1")
    assert await following(watch) == changes(added={new})
    new.write_text("22")
    assert await following(watch) == changes(changed={new})
    new.unlink()
    assert await following(watch) == changes(removed={new})


async def test_what_is_there_already_is_no_change(watch: DropInWatch) -> None:
    watch.rescan()

    assert await silence(watch)


async def test_an_editor_that_renames_over_the_file(watch: DropInWatch, folder: Path) -> None:
    draft = folder / ".old.py.swp"
    draft.write_text("edited")
    draft.rename(folder / "old.py")

    assert await following(watch) == changes(changed={folder / "old.py"})


async def test_touch_and_chmod_are_changes(watch: DropInWatch, folder: Path) -> None:
    os.utime(folder / "old.py", (1, 1))
    assert await following(watch) == changes(changed={folder / "old.py"})
    (folder / "old.py").chmod(0o600)
    assert await following(watch) == changes(changed={folder / "old.py"})
    folder.chmod(0o700)
    assert await following(watch) == changes(changed={folder / "old.py"})


@contextmanager
def half_written(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        file.write("half")
        file.flush()
        yield
        file.write("whole")


@pytest.mark.parametrize("name", ["new.py", "old.py"])
async def test_a_half_written_file_is_not_reported_even_when_others_change(
    watch: DropInWatch, folder: Path, name: str
) -> None:
    with half_written(folder / name):
        (folder / "other.py").write_text("1")
        assert await following(watch) == changes(added={folder / "other.py"})
        watch.rescan()
        assert await silence(watch)
    expected = {folder / name}

    assert await following(watch) == (changes(added=expected) if name == "new.py" else changes(changed=expected))


async def test_links_are_reported_though_nobody_closes_them(watch: DropInWatch, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text("1")
    (folder / "soft.py").symlink_to(tmp_path / "target.py")
    (folder / "hard.py").hardlink_to(tmp_path / "target.py")

    assert await following(watch) == changes(added={folder / "soft.py", folder / "hard.py"})


async def test_what_is_no_plugin_is_not_reported(watch: DropInWatch, folder: Path) -> None:
    for name in ("notes.txt", ".hidden.py", "_private.py", "x.py~"):
        (folder / name).write_text("1")
    (folder / "empty").mkdir()

    assert await silence(watch)


async def test_two_hundred_files_are_one_change_set(watch: DropInWatch, folder: Path) -> None:
    paths = {folder / f"p{number}.py" for number in range(200)}
    for path in paths:
        path.write_text("1")

    assert await following(watch) == changes(added=paths)


async def test_a_folder_and_what_is_deep_in_it(watch: DropInWatch, folder: Path) -> None:
    plugin = folder / "garden"
    plugin.mkdir()
    assert await silence(watch)
    (plugin / "__init__.py").write_text("1")
    assert await following(watch) == changes(added={plugin})
    (plugin / "models").mkdir()
    assert await silence(watch)
    (plugin / "models" / "labels.txt").write_text("1")
    assert await following(watch) == changes(changed={plugin})
    shutil.rmtree(plugin)
    assert await following(watch) == changes(removed={plugin})


async def test_a_folder_that_is_moved_in_whole(watch: DropInWatch, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "garden").mkdir()
    (tmp_path / "garden" / "__init__.py").write_text("1")
    (tmp_path / "garden").rename(folder / "garden")

    assert await following(watch) == changes(added={folder / "garden"})


async def test_the_plugins_folder_may_come_later(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "sparkd" / "plugins"
    async with DropInWatch([folder]) as watch:
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("1")
        assert await following(watch) == changes(added={folder / "a.py"})
        (folder / "b.py").write_text("1")
        assert await following(watch) == changes(added={folder / "b.py"})


async def test_the_plugins_folder_may_be_replaced(watch: DropInWatch, folder: Path) -> None:
    folder.rename(folder.parent / "away")
    assert await following(watch) == changes(removed={folder / "old.py"})
    folder.mkdir()
    (folder / "new.py").write_text("1")
    assert await following(watch) == changes(added={folder / "new.py"})
    (folder.parent / "away" / "old.py").write_text("not ours any more")
    assert await silence(watch)
    shutil.rmtree(folder)
    assert await following(watch) == changes(removed={folder / "new.py"})


async def test_two_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    async with DropInWatch([first, second]) as watch:
        first.mkdir()
        second.mkdir()
        (first / "a.py").write_text("1")
        (second / "b.py").write_text("1")

        assert await following(watch) == changes(added={first / "a.py", second / "b.py"})


async def test_no_descriptor_is_left(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        async with DropInWatch([folder]) as watch:
            assert watch.problem == ""

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_difference() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")

    assert difference({a: (), b: ()}, {b: ((1,),), c: ()}) == changes(added={c}, changed={b}, removed={a})
    assert not difference({a: ()}, {a: ()})
