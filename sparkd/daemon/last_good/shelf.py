"""Versions of what an operator changes (config files and drop-in plugins), and which of them is known to be good.

    last-known-good/state.json             which version is good, which was taken back and why, which is accepted
    last-known-good/versions/HASH/config/  the config of a version: sparkd.toml, sparkd.d/*.toml
    last-known-good/versions/HASH/plugins/ its drop-ins, by the number of their folder

A version's name is a hash of all it holds. A version is written whole beside its place and renamed into it; the state
is one small file, replaced whole. So a kill at any point leaves what was, or what comes. Everything here blocks.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sparkd.config.load import SWITCHES
from sparkd.lasting import make_lasting, sync_folder, write_whole
from sparkd.registry.discover import candidates, files_of
from sparkd.steps import reached

KEPT = 5
"""Versions, besides those that the state names."""
MAX_FILE_BYTES = 8 << 20
MAX_BYTES = 64 << 20
"""What one version may hold; beyond it drop-ins are not kept, and so cannot be taken back."""
MAIN = "sparkd.toml"
MAX_DIFF_LINES = 400


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """The state, as it is kept."""

    good: str = ""
    """The version that every critical service ran by for as long as it takes to trust it."""
    bad: str = ""
    """The version that was taken back: while the disk holds it, the good one is in force."""
    accepted: str = ""
    """The version that the operator wants whatever comes of it."""
    at: float = 0.0
    service: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """What is on disk, or was: each file by its name within the version."""

    files: Mapping[str, Path]
    sums: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    """Drop-ins that are too large to be kept."""

    @property
    def config_sums(self) -> dict[str, str]:
        """The hash of each file of its config."""
        return {name: digest for name, digest in self.sums.items() if name.startswith("config/")}

    @property
    def name(self) -> str:
        """The hash of all it holds."""
        digest = hashlib.sha256()
        for name in sorted(self.sums):
            digest.update(f"{name}\0{self.sums[name]}\0".encode())
        return digest.hexdigest()[:32]


@dataclass(slots=True)
class Shelf:
    """The kept versions of one node."""

    folder: Path
    main: Path | None
    """The config file on the operator's disk; None if there is none."""
    plugins: Sequence[Path]
    taken: Taken = field(init=False)

    def __post_init__(self) -> None:
        self.taken = self._read()

    @property
    def versions(self) -> Path:
        """Where the versions are."""
        return self.folder / "versions"

    def on_disk(self) -> Version:
        """Return the version that is on the operator's disk now. Raises OSError if it cannot be read."""
        files: dict[str, Path] = {}
        if self.main is not None and self.main.exists():
            files[f"config/{MAIN}"] = self.main
            for beside in ("sparkd.d", SWITCHES):
                drop_ins = sorted((self.main.parent / beside).glob("*.toml"))
                files |= {f"config/{beside}/{file.name}": file for file in drop_ins if not file.name.startswith(".")}
        left_out = []
        total = 0
        for number, folder in enumerate(self.plugins):
            for plugin in candidates(folder):
                held = {f"plugins/{number}/{file.relative_to(folder)}": file for file in files_of(plugin)}
                sizes = [file.stat().st_size for file in held.values()]
                total += sum(sizes)
                if max(sizes, default=0) > MAX_FILE_BYTES or total > MAX_BYTES:
                    left_out.append(str(plugin))
                    total -= sum(sizes)
                else:
                    files |= held
        return Version(files, {name: _sum(file) for name, file in files.items()}, tuple(left_out))

    def keep(self, version: Version) -> None:
        """Copy *version* onto the shelf, if it is not there. Raises OSError."""
        target = self.versions / version.name
        if target.is_dir():
            os.utime(target)  # it is of interest again
            return
        make_lasting(self.versions, 0o700)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.versions))
        try:
            for name, file in version.files.items():
                copy = part / name
                copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(copy, file.read_bytes(), mode=0o600)
                if _sum(copy) != version.sums[name]:  # else the good version could hold what came after it
                    raise OSError(f"{file} changed while it was read")
            for folder in (part, *(path for path in part.rglob("*") if path.is_dir())):
                sync_folder(folder)
            reached("last-good.before-keep")
            part.rename(target)
            sync_folder(self.versions)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._prune()

    def note(self, taken: Taken) -> None:
        """Make *taken* the state, durably. Raises OSError."""
        make_lasting(self.folder, 0o700)
        reached("last-good.before-note")
        write_whole(self.folder / "state.json", msgspec.json.encode(taken), mode=0o600)
        self.taken = taken
        reached("last-good.after-note")

    def in_force(self, version: Version) -> Path | None:
        """Return the config file to go by while the disk holds *version*: the operator's, or that of the good one."""
        return self.config_of(self.taken.good) if self.is_taken_back(version) else self.main

    def is_taken_back(self, version: Version) -> bool:
        """Whether *version* was taken back, and the good one is there to go by."""
        return bool(self.taken.bad) and version.name == self.taken.bad and (self.versions / self.taken.good).is_dir()

    def config_of(self, name: str) -> Path | None:
        """Return the config file of the version called *name*; None if it had none."""
        file = self.versions / name / "config" / MAIN
        return file if file.exists() else None

    def instead(self, version: Version) -> dict[Path, Path | None]:
        """Return which drop-ins are to be read from elsewhere, by their place on disk; None for not at all.

        Those that are the same on disk and in the good version are read from disk: they need no restart.
        """
        if not self.is_taken_back(version):
            return {}
        found: dict[Path, Path | None] = {}
        good = self.versions / self.taken.good / "plugins"
        for number, folder in enumerate(self.plugins):
            here = {path.name: path for path in candidates(folder)}
            there = {path.name: path for path in candidates(good / str(number))}
            for name in here.keys() | there.keys():
                if str(here.get(name)) in version.left_out:
                    continue
                if name not in here or name not in there or not _same(here[name], there[name]):
                    found[folder / name] = there.get(name)
        return found

    def difference(self, before: str, after: str) -> str:
        """Return how the versions called *before* and *after* differ, as a unified diff; binary files by name only."""
        lines: list[str] = []
        one, other = self.versions / before, self.versions / after
        for name in sorted({*_names(one), *_names(other)}):
            good, changed = _lines(one / name), _lines(other / name)
            if good != changed:
                names = {"fromfile": f"good/{name}", "tofile": f"changed/{name}"}
                lines += difflib.unified_diff(good, changed, **names, lineterm="", n=2)
        more = [f"… and {len(lines) - MAX_DIFF_LINES} lines more"] if len(lines) > MAX_DIFF_LINES else []
        return "\n".join([*lines[:MAX_DIFF_LINES], *more])

    def _read(self) -> Taken:
        try:
            return msgspec.json.decode((self.folder / "state.json").read_bytes(), type=Taken)
        except (OSError, msgspec.MsgspecError):  # never written, or damaged: then nothing is known to be good
            return Taken()

    def _prune(self) -> None:
        named = {self.taken.good, self.taken.bad, self.taken.accepted}
        rest = [path for path in self.versions.iterdir() if path.name not in named]
        for path in sorted(rest, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _same(one: Path, other: Path) -> bool:
    """Whether two plugins hold the same files."""
    return _plugin_sums(one) == _plugin_sums(other)


def _plugin_sums(plugin: Path) -> dict[str, str]:
    return {str(file.relative_to(plugin)): _sum(file) for file in files_of(plugin)}


def _names(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(root))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        return [f"(not text: {_sum(file)[:12]})"] if file.exists() else []
