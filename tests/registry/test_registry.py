from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from sparkd.registry import (
    BrokenPluginError,
    FailureKind,
    ManifestCache,
    PluginSource,
    ProbeResult,
    Registry,
    SourceKind,
    load,
    load_service,
    new_plugin,
    probe_main,
)
from sparkd.registry.registry import refuse_duplicates
from sparkd.service import Manifest
from sparkd.zygote import Zygote

pytestmark = pytest.mark.anyio


@pytest.fixture
async def zygote(anyio_backend: str) -> AsyncIterator[Zygote]:
    async with Zygote.fork({"probe": probe_main}).attach() as attached:
        yield attached


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def registry(zygote: Zygote, folder: Path, tmp_path: Path) -> Registry:
    cache = ManifestCache(tmp_path / "manifests")
    return Registry(zygote, folders=[folder], cache=cache, group=None, limit_s=1)


def drop(folder: Path, name: str, text: str | None = None) -> None:
    (folder / f"{name}.py").write_text(new_plugin(name) if text is None else text)


def told(results: tuple[ProbeResult, ...]) -> dict[str, str]:
    return {r.source.name: r.failure.kind if r.failure else "cached" if r.cached else "read" for r in results}


async def test_bad_plugins_do_not_touch_good_ones(registry: Registry, folder: Path) -> None:
    drop(folder, "good")
    drop(folder, "hanging", "while True: pass")
    drop(folder, "leaving", "import os; os._exit(0)")
    drop(folder, "open")
    (folder / "open.py").chmod(0o666)

    assert told(await registry.read()) == {"good": "read", "hanging": "hung", "leaving": "exited", "open": "refused"}


async def test_manifests_are_cached_and_failures_are_not(registry: Registry, folder: Path) -> None:
    drop(folder, "good")
    drop(folder, "bad", "1 / 0")
    await registry.read()

    assert told(await registry.read()) == {"good": "cached", "bad": "import"}


async def test_a_change_is_read_again(registry: Registry, folder: Path) -> None:
    drop(folder, "good")
    (before,) = await registry.read()
    drop(folder, "good", new_plugin("good").replace("5.0", "6.0"))
    (after,) = await registry.read()

    assert not after.cached
    assert before.manifests[0].config_schema != after.manifests[0].config_schema


async def test_a_plugin_that_hangs_does_not_hold_back_the_others(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparkd.registry.registry.PATIENCE_S", 0.2)
    async with anyio.create_task_group() as tasks:
        await tasks.start(registry.follow)
        for number in range(5):  # more than may be probed at once
            drop(folder, f"hanging{number}", f"while {number + 1}: pass")
        drop(folder, "x-good")
        first = told(await registry.read())
        with anyio.fail_after(5):
            while set((last := told(await registry.read())).values()) != {"hung", "cached"}:
                await registry.late()
        drop(folder, "y-good")
        again = told(await registry.read())
        tasks.cancel_scope.cancel()

    assert first["hanging0"] == "pending"
    assert last["x-good"] == "cached"
    assert again == {**last, "y-good": "read"}


async def test_a_plugin_that_is_slow_to_import_comes_late(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparkd.registry.registry.PATIENCE_S", 0.05)
    drop(folder, "slow", "import time\ntime.sleep(0.3)\n" + new_plugin("slow").replace("from __future__", "# "))
    async with anyio.create_task_group() as tasks:
        await tasks.start(registry.follow)
        first = told(await registry.read())
        with anyio.fail_after(5):
            await registry.late()
        second = told(await registry.read())
        tasks.cancel_scope.cancel()

    assert (first, second) == ({"slow": "pending"}, {"slow": "cached"})


async def test_what_is_not_wanted_is_not_imported(registry: Registry, folder: Path, tmp_path: Path) -> None:
    drop(folder, "good")
    drop(folder, "unwanted", f"open({str(tmp_path / 'trace')!r}, 'w')")

    assert told(await registry.read(lambda source: source.name == "good")) == {"good": "read"}
    assert not (tmp_path / "trace").exists()


async def test_a_newcomer_does_not_take_a_running_services_name(registry: Registry, folder: Path) -> None:
    drop(folder, "zebra", new_plugin("door"))
    await registry.read()
    drop(folder, "ant", new_plugin("door"))
    ant, zebra = await registry.read()

    assert zebra.failure is None
    assert ant.failure is not None
    assert ant.failure.kind is FailureKind.DUPLICATE
    assert ant.failure.message == f"the service name 'door' is taken by zebra ({folder / 'zebra.py'})"
    assert ant.manifests == ()


async def test_the_cache_forgets_what_is_gone(registry: Registry, folder: Path, tmp_path: Path) -> None:
    drop(folder, "good")
    await registry.read()
    (folder / "good.py").unlink()
    await registry.read()

    assert list((tmp_path / "manifests").iterdir()) == []


async def test_sparkds_own_plugins_are_installed_the_same_way(zygote: Zygote, tmp_path: Path) -> None:
    registry = Registry(zygote, folders=[], cache=ManifestCache(tmp_path))
    results = await registry.read(lambda source: source.name == "node-telemetry")

    assert [result.source.kind for result in results] == [SourceKind.ENTRY_POINT]


def result(plugin: str, *services: str, kind: SourceKind = SourceKind.DROP_IN) -> ProbeResult:
    source = PluginSource(name=plugin, kind=kind, path=f"/{kind}/{plugin}")
    return ProbeResult(source=source, manifests=tuple(Manifest(plugin=plugin, name=name) for name in services))


def test_what_is_installed_comes_before_what_is_dropped_in() -> None:
    first, second = refuse_duplicates([result("a", "x"), result("b", "x", kind=SourceKind.ENTRY_POINT)])

    assert (first.source.name, first.failure) == ("b", None)
    assert second.failure is not None


def test_two_plugins_of_one_name_are_a_duplicate() -> None:
    _, second = refuse_duplicates([result("a", "x"), result("a", "y", kind=SourceKind.ENTRY_POINT)])

    assert second.failure is not None
    assert second.failure.message.startswith("the plugin name 'a' is taken by a")


def test_a_refused_plugin_takes_no_names() -> None:
    results = refuse_duplicates([result("a", "x"), result("b", "x", "y"), result("c", "y")])

    assert [r.failure is None for r in results] == [True, False, True]


def test_a_damaged_cache_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = ManifestCache(tmp_path / "c")
    assert cache.get("0") is None
    cache.put("0", (Manifest(plugin="a", name="b"),))
    assert cache.get("0") == (Manifest(plugin="a", name="b"),)

    (file,) = (tmp_path / "c").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert cache.get("0") is None


def test_a_cache_without_a_place_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ManifestCache(tmp_path / "file" / "c")
    cache.put("0", ())
    cache.prune([])

    assert cache.get("0") is None


def test_load_gives_the_services_by_name(folder: Path) -> None:
    drop(folder, "loaded")
    source = PluginSource(name="loaded", kind=SourceKind.DROP_IN, path=str(folder / "loaded.py"))

    assert [service.name for service in load(source)] == ["loaded"]
    assert load_service(source, "loaded").config.__name__ == "Config"
    with pytest.raises(BrokenPluginError, match="has no service 'other' any more; it has: loaded"):
        load_service(source, "other")


def test_an_edit_within_the_same_second_is_loaded(folder: Path) -> None:
    source = PluginSource(name="edited", kind=SourceKind.DROP_IN, path=str(folder / "edited.py"))
    for name in ("first", "again"):
        drop(folder, "edited", new_plugin(name))
        assert [service.name for service in load(source)] == [name]


def test_a_folder_imports_its_own_files(folder: Path) -> None:
    (folder / "garden").mkdir()
    (folder / "garden" / "__init__.py").write_text("from .service import sparkd_services\n")
    (folder / "garden" / "service.py").write_text(new_plugin("garden"))
    source = PluginSource(name="garden", kind=SourceKind.DROP_IN, path=str(folder / "garden"))

    assert [service.name for service in load(source)] == ["garden"]
    assert sorted(path.name for path in (folder / "garden").iterdir()) == ["__init__.py", "service.py"]


def test_an_entry_point_may_name_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange_module.py").write_text(
        new_plugin("strange")
        + "\n\nclass Hooks:\n    sparkd_services = staticmethod(sparkd_services)\n\n\nhooks = Hooks()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source = PluginSource(
        name="strange",
        kind=SourceKind.ENTRY_POINT,
        path=str(tmp_path / "strange_module.py"),
        entry="strange_module:hooks",
    )

    assert [service.name for service in load(source)] == ["strange"]
