"""Whether the NAS is there: present, mounted, writable, with room. All functions block."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from .directory_config import DirectoryConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MountState:
    """How a folder is."""

    free_bytes: int | None = None
    writable: bool = True
    reason: str = ""
    remedy: str = ""


def mounted_at(path: Path, text: str) -> str:
    """Return the mount point that *path* stands on, by *text* of /proc/self/mountinfo (proc(5))."""
    best = "/"
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:  # noqa: PLR2004 - the fifth is the mount point
            point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            if len(point) > len(best) and (str(path) == point or str(path).startswith(point.rstrip("/") + "/")):
                best = point
    return best


def look(config: DirectoryConfig) -> MountState:
    """Return how the folder is. Never raises OSError."""
    path = config.path
    try:
        if config.mount and mounted_at(path, Path("/proc/self/mountinfo").read_text("utf-8")) == "/":
            return MountState(
                writable=False, reason=f"nothing is mounted at {path}", remedy=f"mount the NAS: systemctl start {path}"
            )
        usage = shutil.disk_usage(path)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        return MountState(writable=False, reason=f"{path}: {error.strerror}", remedy="look at the NAS and its mount")
    least = min(config.free_least_bytes, usage.total // 20)
    if not writable:
        reason, remedy = f"{path} cannot be written to", "look at its owner and how it is mounted"
    elif usage.free < least:
        reason, remedy = f"{path} is full: {usage.free} bytes are free, {least} are kept free", "make room on the NAS"
    else:
        reason = remedy = ""
    return MountState(free_bytes=usage.free, writable=not reason, reason=reason, remedy=remedy)
