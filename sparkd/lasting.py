"""Files that outlive a power cut: what is confirmed is on disk, what is replaced is the old or the new. Layer: values.

A name lasts by a sync of the folder it is in, content by one of the file (fsync(2)); neither brings the other along.
Everything here blocks, and raises OSError.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_lasting(folder: Path, mode: int = 0o750) -> None:
    """Make *folder* with those above it, so that a power cut cannot take it away with what is synced in it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None, replace: bool = True) -> None:
    """Put *content* into *path*, whole or not at all, and make it last.

    Raises FileExistsError if there is a file already and it may not *replace* it. Without *mode* it is the umask's.
    """
    if replace:  # always the same name: what a killed process left is written over
        part = path.with_name(f"{path.name}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    else:  # several may try at once: each has its own, and the first that links it is right
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            part.replace(path)
        else:
            os.link(part, path)  # unlike rename, fails if the file is there
    finally:
        part.unlink(missing_ok=True)  # on a full disk it would take the room that is missing
    sync_folder(path.parent)
