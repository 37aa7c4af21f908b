"""List the plugins there are, without importing any: entry points of wheels, and the drop-in folders."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import msgspec

from sparkd.registry.source import Failure, FailureKind, PluginSource, ProbeResult, SourceKind
from sparkd.service import NAME

GROUP = "sparkd"
WHOLE_FILE_BYTES = 1 << 20
"""A larger file (a model, say) counts in the hash by size and time: plugins are not rehashed by the gigabyte."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """The plugins that can be read, and those that are refused unread."""

    sources: tuple[PluginSource, ...]
    refused: tuple[ProbeResult, ...]


def discover(
    folders: Sequence[Path],
    *,
    group: str | None = GROUP,
    owners: Collection[int] | None = None,
    instead: Mapping[Path, Path | None] | None = None,
) -> Discovery:
    """Return what is installed under the entry-point *group* (None for none), and dropped into *folders*.

    A drop-in must belong to one of *owners* (default: root and this process's user). One that *instead* names is read
    from the place it gives, or, for None, taken as not there. Blocks: it reads every file.
    """
    owners = {0, os.geteuid()} if owners is None else owners
    sources: list[PluginSource] = []
    refused: list[ProbeResult] = []
    found = [
        *(_installed(group) if group else ()),
        *(found for folder in folders for found in _dropped(folder, owners, instead or {})),
    ]
    for source, problem in found:
        if problem is None:
            sources.append(source)
        else:
            refused.append(ProbeResult(source=source, failure=problem))
    return Discovery(tuple(sources), tuple(refused))


def is_plugin_name(file_name: str) -> bool:
    """Whether a file or folder of a drop-in folder is meant as a plugin: not hidden, private or an editor's."""
    return not file_name.startswith((".", "_", "#")) and not file_name.endswith(("~", "#", ".bak", ".tmp", ".swp"))


def candidates(folder: Path) -> list[Path]:
    """Return the files and folders in *folder* that are meant as plugins, by name; none if it cannot be listed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in entries if is_plugin_name(path.name) and _has_code(path)]


def files_of(path: Path) -> list[Path]:
    """Return the files that make up the plugin at *path*, in a fixed order, without caches and hidden ones."""
    if not path.is_dir():
        return [path]
    return [folder / name for folder, names in walk(path) for name in names]


def walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder of the plugin folder *path* with the names of its files, as `files_of` lists them."""
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        yield Path(folder), sorted(name for name in names if not name.startswith("."))


def fingerprint(path: Path, *identity: str) -> str:
    """Return a hash of the content at *path*, of *identity*, and of the versions that the manifest depends on."""
    digest = hashlib.sha256()
    for text in (*identity, _own_version(), platform.python_version()):
        digest.update(text.encode() + b"\0")
    for file in files_of(path):
        facts = file.stat()
        digest.update(f"{file.relative_to(path)}\0{facts.st_size}\0".encode())
        if facts.st_size > WHOLE_FILE_BYTES:
            digest.update(str(facts.st_mtime_ns).encode())
        else:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def distrust(facts: os.stat_result, owners: Collection[int]) -> str:
    """Return why a file with *facts* could hold what others wrote, or nothing."""
    if facts.st_uid not in owners:
        return f"belongs to uid {facts.st_uid}, not to root or the daemon's user"
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by others than its owner"
    return ""


def _dropped(
    folder: Path, owners: Collection[int], instead: Mapping[Path, Path | None]
) -> Iterator[tuple[PluginSource, Failure | None]]:
    there = candidates(folder)
    places = {path: instead.get(path, path) for path in there}
    places |= {place: copy for place, copy in instead.items() if place.parent == folder and place not in places}
    for path in filter(None, places.values()):
        name = (path.name if path.is_dir() else path.stem).replace("_", "-")
        source = PluginSource(name=name, kind=SourceKind.DROP_IN, path=str(path))
        try:
            problem = _refusal(path, name, owners)
            if problem is None:
                source = msgspec.structs.replace(source, hash=fingerprint(path, *source.key))
        except OSError as error:  # removed meanwhile, or not readable
            problem = Failure(kind=FailureKind.REFUSED, message=f"cannot be read: {error}", file=str(path))
        yield source, problem


def _refusal(path: Path, name: str, owners: Collection[int]) -> Failure | None:
    if not NAME.fullmatch(name):
        message = f"{path.name!r} cannot be a plugin's name: lower-case words joined by hyphens or underscores expected"
        return Failure(kind=FailureKind.REFUSED, message=message, remedy="rename it", file=str(path))
    suspects = [path.parent, path.resolve().parent, path]
    if path.is_dir():
        suspects += [entry for folder, names in walk(path) for entry in (folder, *map(folder.joinpath, names))]
    for suspect in dict.fromkeys(suspects):
        if problem := distrust(suspect.stat(), owners):
            remedy = f"chown root {suspect}" if "belongs" in problem else f"chmod go-w {suspect}"
            return Failure(kind=FailureKind.REFUSED, message=f"{suspect} {problem}", remedy=remedy, file=str(suspect))
    return None


def _has_code(path: Path) -> bool:
    return (path / "__init__.py").is_file() if path.is_dir() else path.suffix == ".py"


def _installed(group: str) -> Iterator[tuple[PluginSource, Failure | None]]:
    importlib.invalidate_caches()  # a wheel may have been installed since
    for entry in sorted(metadata.entry_points(group=group), key=lambda entry: entry.name):
        distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
        module = entry.value.partition(":")[0].strip()
        path = locate(module)
        source = PluginSource(
            name=entry.name,
            kind=SourceKind.ENTRY_POINT,
            path=str(path or ""),
            entry=entry.value,
            distribution=distribution,
        )
        if path is None:
            message = f"module {module!r} of {distribution} is not installed"
            yield source, Failure(kind=FailureKind.MISSING, message=message, remedy=f"reinstall {distribution}")
        else:
            digest = fingerprint(path, *source.key, distribution)
            yield msgspec.structs.replace(source, hash=digest), None


def locate(module: str) -> Path | None:
    """Return the folder, or the file, that holds *module* and its siblings; None if there is no such module.

    Unlike `importlib.util.find_spec` it imports no parent package.
    """
    parts = module.split(".")
    search: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    for end in range(1, len(parts) + 1):
        spec = _find(".".join(parts[:end]), search)
        if spec is None:
            return None
        search = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    return file if len(parts) == 1 and file.name != "__init__.py" else file.parent


def _find(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, search, None):
            return spec
    return None


def _own_version() -> str:
    try:
        return metadata.version("sparkd")
    except metadata.PackageNotFoundError:  # run from a plain folder
        return ""
