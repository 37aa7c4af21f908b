"""`sparkctl backup` and `sparkctl restore`: a node in one file, and back again onto an empty machine.

The file is a gzipped tar: `about.json`, then `config/…` and `state/…`, then `sums.json` with a SHA-256 of each. SQLite
files are copied by SQLite, so the daemon may run meanwhile; the readers' cursors come before the records, so that a
copied cursor never passes a record that was not copied. It holds the node's secret key.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import hashlib
import io
import json
import os
import pwd
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from sparkd.cli.offline import as_owner_of
from sparkd.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from sparkd.config import Places

FORMAT = 1
ACCOUNT = "sparkd"
ABOUT, SUMS = "about.json", "sums.json"
_SQLITE = b"SQLite format 3\0"
_SIDES = ("-wal", "-shm", "-journal")
_NOT_KEPT = ("logs", "recorder")
"""Folders of the state that say nothing on another machine."""
_MADE_ANEW = {"reserve", "lock", "trim.lock", "losses.lock"}
"""Files of a stream of the outbox that its writer makes."""
MAX_ABOUT_BYTES, MAX_SUMS_BYTES = 1 << 20, 256 << 20
MAX_IN_MEMORY = 32 << 20
"""A segment of the outbox is at the most half of it; a larger database is copied on disk."""
_CHUNK = 1 << 20


def backup(options: argparse.Namespace) -> int:
    """Write the backup."""
    from sparkd.config import load_places  # noqa: PLC0415 - not needed to restore

    config, places = load_places(options.config)
    if not (places.state / "node_id").is_file():
        raise ConfigError(f"{places.state}: no node has run here, or its folder is closed to you; try: sudo")
    about = {
        "format": FORMAT,
        "node": config.node.name,
        "created": time.time(),
        "files": [str(f) for f in config.files],
    }
    if options.file == "-":
        count = _write(sys.stdout.buffer, places, about)
        print(f"sparkctl: {count} files", file=sys.stderr)
        return 0
    target = Path(options.file)
    if target.exists() and not options.force:
        raise ConfigError(f"{target}: is there already; choose another name, or --force")
    part = target.with_name(f".{target.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as out:  # noqa: PTH123 - a descriptor, not a path
            count = _write(out, places, about)
            out.flush()
            os.fsync(out.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    print(f"{target}: {count} files, {target.stat().st_size} bytes. It holds the node's secret key: keep it closed.")
    return 0


def _write(out: IO[bytes], places: Places, about: dict[str, Any]) -> int:
    sums: dict[str, str] = {}
    with (
        gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        _add(tar, tarfile.TarInfo(ABOUT), json.dumps(about).encode())
        sums |= _add_folder(tar, "config", places.config)
        with as_owner_of(places.state):  # SQLite makes files beside those it reads
            sums |= _add_folder(tar, "state", places.state)
        _add(tar, tarfile.TarInfo(SUMS), json.dumps(sums).encode())
    return len(sums)


def _add_folder(tar: tarfile.TarFile, base: str, folder: Path) -> dict[str, str]:
    sums = {}
    for file in _ordered(folder):
        inner = PurePosixPath(file.relative_to(folder))
        if base == "state" and not _is_kept(inner):
            continue
        name = f"{base}/{inner}"
        with suppress(FileNotFoundError):  # trimmed, or replaced, since we looked
            sums[name] = _add_file(tar, name, file)
    return sums


def _ordered(folder: Path) -> list[Path]:
    """Return the files to copy, readers' cursors first; root's own links, and ours, as what they lead to."""
    found: list[Path] = []
    for base, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith(".") and name != "__pycache__")
        found += [Path(base) / name for name in files if not name.endswith((".part", *_SIDES))]
    owners = {0, os.geteuid()}
    kept = [file for file in found if file.is_file() and not (file.is_symlink() and file.lstat().st_uid not in owners)]
    return sorted(kept, key=lambda file: (file.parent.name != "cursors", str(file)))


def _is_kept(name: PurePosixPath) -> bool:
    """Whether a file of the state, by its name within it, is for another machine too."""
    return name.parts[0] not in _NOT_KEPT and not (name.parts[0] == "outbox" and name.name in _MADE_ANEW)


def _add_file(tar: tarfile.TarFile, name: str, file: Path) -> str:
    entry = tarfile.TarInfo(name)
    found = file.stat()
    entry.mode, entry.uid, entry.mtime = found.st_mode & 0o777, found.st_uid, int(found.st_mtime)
    with file.open("rb") as opened:
        if opened.read(len(_SQLITE)) != _SQLITE:
            opened.seek(0)
            return _add(tar, entry, opened.read())
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source:
        if found.st_size <= MAX_IN_MEMORY:
            return _add(tar, entry, source.serialize())
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=file.parent) as scratch:
            copy = Path(scratch) / "copy"
            with closing(sqlite3.connect(copy)) as db:
                source.backup(db)
                db.execute("PRAGMA journal_mode = DELETE")  # one file, whole by itself
            return _add_copy(tar, entry, copy)


def _add(tar: tarfile.TarFile, entry: tarfile.TarInfo, content: bytes) -> str:
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(content).hexdigest()


def _add_copy(tar: tarfile.TarFile, entry: tarfile.TarInfo, copy: Path) -> str:
    entry.size = copy.stat().st_size
    with copy.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        opened.seek(0)
        tar.addfile(entry, opened)
    return digest


def restore(options: argparse.Namespace) -> int:
    """Put a backup in place: verified whole before anything of this machine is touched."""
    from sparkd.config import NodeConfig, places  # noqa: PLC0415 - not needed to back up

    config = places(NodeConfig(), options.config).config
    config.mkdir(mode=0o755, parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".restore-", dir=config))
    try:
        done = _extract(options.file, staged)
        target = _Target.of(staged / "config", config)
        with target.alone():
            streams, aside = _put(options, target, staged, done)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    node = done.about["node"]
    lines = [f"{node}: restored to {target.config} and {target.state}"]
    lines += [f"what was here is kept as {place}" for place in aside]
    lines += [f"{stream}: goes on far beyond its last number, so nothing is taken for a double" for stream in streams]
    lines.append("The backup's machine must not run any more: two nodes of one identity lose each other's records.")
    print(json.dumps({"node": node, "streams": streams, "kept": aside}) if options.json else "\n".join(lines))
    return 0


def _put(options: argparse.Namespace, target: _Target, staged: Path, done: _Extraction) -> tuple[list[str], list[str]]:
    """Move what was extracted into place; return the streams, and where what was there has gone."""
    from sparkd.outbox import leap  # noqa: PLC0415 - not needed to back up

    held = [place for place in (target.state / "node_id", target.config / "sparkd.toml") if place.exists()]
    if held and not options.force:
        raise ConfigError(f"{held[0]}: there is a node here already; --force moves it aside")
    target.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    streams = leap(staged / "state" / "outbox")
    if os.geteuid() == 0:
        folders = {path for path in (staged / "config").rglob("*") if path.is_dir()}
        _give(staged / "state", target.owner(), set())
        _give(staged / "config", target.owner(), done.of_root | folders)
    return streams, target.put(staged)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a node is restored to."""

    config: Path
    state: Path
    runtime: Path

    @classmethod
    def of(cls, extracted: Path, config: Path) -> _Target:
        """Return the places that the config in *extracted* names; it goes to *config*. Raises ConfigError."""
        from sparkd.config import NodeConfig, load_config, places  # noqa: PLC0415 - not needed to back up

        file = extracted / "sparkd.toml"
        found = places(load_config(file).node if file.exists() else NodeConfig(), config / "sparkd.toml")
        return cls(config, found.state, found.runtime)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the daemon's lock. Raises ConfigError if one runs."""
        try:
            lock = (self.runtime / "core.pid").open("r+")
        except FileNotFoundError:  # none has run since the machine started
            yield
            return
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError("a daemon runs here; stop it first: systemctl stop sparkd") from None
            yield

    def owner(self) -> tuple[int, int]:
        """Return the user and group that the daemon's files shall belong to."""
        found = self.state.stat()
        if found.st_uid == 0:
            with suppress(KeyError):  # no such account: then a daemon of root's
                account = pwd.getpwnam(ACCOUNT)
                return account.pw_uid, account.pw_gid
        return found.st_uid, found.st_gid

    def put(self, staged: Path) -> list[str]:
        """Move what was staged into place; return where what was there has gone."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        kept = []
        for source, target in ((staged / "config", self.config), (staged / "state", self.state)):
            target.mkdir(mode=0o755, parents=True, exist_ok=True)
            found = [path for path in target.iterdir() if not path.name.startswith((".before-restore-", ".restore-"))]
            if any(path.is_file() or any(path.iterdir()) for path in found):
                place = target / f".before-restore-{stamp}"
                place.mkdir(mode=0o700)
                for path in found:
                    path.rename(place / path.name)
                kept.append(str(place))
            for path in sorted(source.iterdir()) if source.is_dir() else ():
                _move(path, target / path.name)
        return kept


def _give(folder: Path, owner: tuple[int, int], of_root: set[Path]) -> None:
    """Give what is beneath *folder* to *owner*, but for what is *of_root*."""
    for path in (folder, *folder.rglob("*")):
        if path not in of_root:
            os.chown(path, *owner, follow_symlinks=False)


def _move(source: Path, target: Path) -> None:
    if target.is_dir() and source.is_dir():  # such as plugins/, made by a package and empty
        for path in source.iterdir():
            _move(path, target / path.name)
    else:
        shutil.move(source, target)  # a rename, unless it is another file system


@dataclass(slots=True)
class _Extraction:
    """What has come out of the archive so far."""

    sums: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, str] | None = None
    of_root: set[Path] = field(default_factory=set)


def _extract(file: str, staged: Path) -> _Extraction:
    """Unpack into *staged* and check every sum. Raises StorageError if the archive is not whole, or not ours."""
    done = _Extraction()
    try:
        with _reading(file) as tar:
            for entry in tar:
                _take(tar, entry, staged, done)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise StorageError(f"{file}: not a whole backup: {error}") from None
    if done.expected is None:
        raise StorageError(f"{file}: the backup is cut off: its sums are missing")
    names = done.expected.keys() | done.sums.keys()
    wrong = sorted(name for name in names if done.expected.get(name) != done.sums.get(name))
    if wrong:
        raise StorageError(f"{file}: damaged: {wrong[0]} is not what was backed up ({len(wrong)} files are not)")
    return done


@contextmanager
def _reading(file: str) -> Iterator[tarfile.TarFile]:
    if file == "-":
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as tar:
            yield tar
    else:
        with tarfile.open(file, mode="r|gz") as tar:
            yield tar


def _take(tar: tarfile.TarFile, entry: tarfile.TarInfo, staged: Path, done: _Extraction) -> None:
    content = tar.extractfile(entry) if entry.isreg() else None
    if content is None:
        raise ValueError(f"{entry.name!r} is not a plain file")
    if entry.name in (ABOUT, SUMS):
        held = json.loads(content.read(MAX_ABOUT_BYTES if entry.name == ABOUT else MAX_SUMS_BYTES))
        if not isinstance(held, dict):
            raise ValueError(f"{entry.name} is malformed")
        if entry.name == SUMS:
            done.expected = held
        elif held.get("format") != FORMAT or not isinstance(held.get("node"), str):
            raise ValueError(f"its format is {held.get('format')!r}, not {FORMAT}; a newer sparkd made it")
        else:
            done.about = held
        return
    path = PurePosixPath(entry.name)
    if not done.about or path.is_absolute() or ".." in path.parts or path.parts[0] not in ("config", "state"):
        raise ValueError(f"{entry.name!r} has no place in a backup")
    done.sums[entry.name] = _unpack(content, staged / path, entry.mode & 0o777)
    if entry.uid == 0 and path.parts[0] == "config":
        done.of_root.add(staged / path)


def _unpack(content: IO[bytes], target: Path, mode: int) -> str:
    for folder in reversed(target.parents):
        with suppress(FileExistsError):  # the config's folders are of root, and read by the daemon
            folder.mkdir(mode=0o755 if "config" in folder.parts else 0o700)
    digest = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as out:  # noqa: PTH123 - a descriptor, not a path
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
        os.fchmod(out.fileno(), mode)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()
