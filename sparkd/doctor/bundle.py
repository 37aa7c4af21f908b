"""`sparkctl support-bundle`: what somebody who helps must know, in one file, without secrets."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import msgspec

from sparkd.doctor import examine
from sparkd.doctor.scene import Scene
from sparkd.errors import SparkdError
from sparkd.logstore import read_lines
from sparkd.redact import Redactor, secrets_of
from sparkd.rpc.client import Client

LOG_LINES = 5000
ASK_LIMIT_S = 10.0
_QUESTIONS = ("node.status", "plugins.status", "config.show", "bus.stats", "outbox.status", "logs.levels")
_COMMANDS: dict[str, Sequence[str]] = {
    "unit.txt": ("systemctl", "cat", "sparkd.service"),
    "unit-status.txt": ("systemctl", "status", "--no-pager", "-n", "0", "sparkd.service"),
    "journal.txt": ("journalctl", "--no-pager", "-u", "sparkd.service", "-n", "2000", "-o", "short-iso"),
    "kernel.txt": ("journalctl", "--no-pager", "-k", "-n", "500", "-o", "short-iso"),
    "lsusb.txt": ("lsusb",),
    "lspci.txt": ("lspci", "-nn"),
    "hailo.txt": ("hailortcli", "fw-control", "identify"),
    "df.txt": ("df", "-h"),
    "addresses.txt": ("ip", "-brief", "address"),
}
"""None of these prints keys: `wg show` is left out altogether."""
_FILES = ("/proc/meminfo", "/proc/loadavg", "/proc/self/mountinfo", "/etc/os-release", "/proc/device-tree/model")


def write_bundle(scene: Scene, target: Path) -> tuple[int, int]:
    """Write the bundle; return how many files it has, and how many secrets were hidden. Raises OSError."""
    redactor = Redactor(secrets_of(scene.config, scene.places))
    part = target.with_name(f".{target.name}.part")
    count = 0
    try:
        with tarfile.open(part, "w:gz") as tar:
            part.chmod(0o600)
            for name, content in _contents(scene):
                _add(tar, name, redactor.text(content))
                count += 1
            _add(tar, "hidden.txt", f"{redactor.hidden} places were hidden\n")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return count + 1, redactor.hidden


def _add(tar: tarfile.TarFile, name: str, content: str) -> None:
    data = content.encode(errors="replace")
    entry = tarfile.TarInfo(f"sparkd-support/{name}")
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    tar.addfile(entry, io.BytesIO(data))


def _contents(scene: Scene) -> Iterator[tuple[str, str]]:
    yield "doctor.json", _json([{"check": name, **_plain(finding)} for name, finding in examine(scene)])
    yield from _answers(scene)
    for name, command in _COMMANDS.items():
        said = scene.run(command)
        if said:
            yield name, said
    for file in _FILES:
        held = scene.read(file)
        if held:
            yield f"system{file.replace('/', '.')}.txt", held
    packages = {dist.metadata["Name"]: dist.version for dist in distributions()}
    yield "packages.json", _json(dict(sorted(packages.items())))
    lines = read_lines(scene.places.state / "logs", lines=LOG_LINES)
    yield "log.txt", "".join(f"{_stamp(line.at)} {line.level} {line.service} {line.text}\n" for line in lines)
    yield "files.txt", "".join(_listing(scene))
    for file_ in scene.config.files:
        held = _text(file_)
        if held is not None:
            yield f"config/{file_.name}", held


def _answers(scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield what the daemon says; if there is none, why."""
    for question in _QUESTIONS:
        try:
            with Client(scene.places.socket, timeout_s=ASK_LIMIT_S) as client:
                yield f"{question}.json", _json(client.call(question, {}))
        except (OSError, SparkdError) as error:
            yield f"{question}.txt", f"no answer: {error}\n"


def _listing(scene: Scene) -> Iterator[str]:
    """Yield the daemon's files with modes, owners and sizes; not what is in them."""
    for folder in (scene.places.config, scene.places.runtime, scene.places.state):
        for path in sorted(folder.rglob("*")):
            try:
                found = path.lstat()
            except OSError:
                continue
            yield f"{found.st_mode:06o} {found.st_uid}:{found.st_gid} {found.st_size:>10} {path}\n"


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str, ensure_ascii=False) + "\n"


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))
