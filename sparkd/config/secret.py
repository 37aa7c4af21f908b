"""Finding the secrets that a config names: in systemd's credentials, in closed files, in the environment."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparkd.secret import Secret

_WAYS = '{ credential = "name" }, { file = "/path" } or { env = "NAME" }'
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
MAX_SECRET_BYTES = 64 << 10
_TELLING = re.compile(r"passw|passphrase|secret|token(?!s)|credential|(api|private|access)[_-]?key", re.IGNORECASE)


def looks_secret(key: str) -> bool:
    """Whether a key's name says that its value must not be shown, whatever its type is."""
    return _TELLING.search(key) is not None


def resolve(written: Any) -> Secret:
    """Return the secret that the config names. Raises ValueError that never contains what was written as a value."""
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ValueError(f"a secret is named, not written: use {_WAYS}")
    ((way, name),) = written.items()
    if not isinstance(name, str) or not name:
        raise ValueError(f"a secret's name must be text: use {_WAYS}")
    if way == "credential":
        return _from_credential(name)
    if way == "file":
        return Secret(_read(Path(name)), f"file {name}")
    if way == "env":
        if not os.environ.get(name):
            raise ValueError(f"environment variable {name} is not set, or empty")
        return Secret(os.environ[name], f"environment variable {name}")
    raise ValueError(f"unknown way {way!r} to name a secret: use {_WAYS}")


def _from_credential(name: str) -> Secret:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ValueError(
            f"credential {name!r}: systemd gave no credentials; try LoadCredential={name}:/path in the unit"
        )
    if "/" in name or name.startswith("."):
        raise ValueError(f"credential {name!r}: a plain name expected")
    return Secret(_text(Path(folder) / name, closed=False), f"credential {name}")  # systemd has closed the folder


def _read(path: Path) -> str:
    if not path.is_absolute():
        raise ValueError(f"{path}: an absolute path expected")
    return _text(path, closed=True)


def _text(path: Path, *, closed: bool) -> str:
    """Return what the file holds, without the last line's end. What is checked is the file that is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold us
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            _check(path, os.fstat(descriptor), closed=closed)
            text = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    if len(text) > MAX_SECRET_BYTES:
        raise ValueError(f"{path}: larger than {MAX_SECRET_BYTES} bytes")
    try:
        secret = text.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text") from None
    if not secret:
        raise ValueError(f"{path}: empty")
    return secret


def _check(path: Path, found: os.stat_result, *, closed: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: not a file")
    if closed and found.st_mode & _OTHERS:
        raise ValueError(f"{path}: mode {stat.S_IMODE(found.st_mode):04o} lets others at it; try: chmod 600 {path}")
    if closed and found.st_uid not in (0, os.getuid()):
        raise ValueError(f"{path}: belongs to user {found.st_uid}; root or the daemon's user expected")
