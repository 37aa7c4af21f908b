"""Whether what is about to be believed can have been written by root only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sparkd.errors import ConfigError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
ROOT = 0


def require_roots(path: Path) -> None:
    """Raise ConfigError unless *path*, every folder above it and every link on the way belong to root alone.

    A folder that all may write to counts as root's if it is sticky: others cannot touch there what is root's.
    """
    if not path.is_absolute():
        raise ConfigError(f"{path}: an absolute path expected")
    try:
        real = path.resolve(strict=True)
        for part in {*_chain(path), *_chain(real)}:
            _require(part, os.lstat(part))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _chain(path: Path) -> list[Path]:
    return [path, *path.parents]


def _require(part: Path, found: os.stat_result) -> None:
    if found.st_uid != ROOT:
        raise ConfigError(f"{part}: belongs to user {found.st_uid}, who could change it; try: chown root {part}")
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & _OTHERS and not stat.S_ISLNK(found.st_mode) and not sticky:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(f"{part}: mode {mode:04o} lets others than root write to it; try: chmod go-w {part}")
