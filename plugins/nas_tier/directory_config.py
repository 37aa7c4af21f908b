"""What an operator may set of tier 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryConfig:
    """The table `[plugins.nas-tier.nas]`: a folder that all nodes of a site share, over NFS or SMB, or a local one."""

    path: Path
    """Such as /mnt/nas. Beneath it stand `prime-spark-cache`, which is the memory's, `models` and `data`."""
    mount: bool = False
    """Whether a mount must stand at it or above it: without that, the folder is the empty one that the NAS is mounted
    over, and what is written there fills this machine's own disk."""
    threads: int = 8
    """Calls that are under way at most. One that hangs, as on a dead NFS server, keeps its thread until it ends."""
    timeout_s: float = 5.0
    free_least_bytes: int = GIB
    """Nothing is written once less than that is free, or a twentieth of the disk if that is less."""

    def __post_init__(self) -> None:
        if not self.path.is_absolute():
            raise ValueError(f"path: an absolute path expected, got {str(self.path)!r}")
        if not 2 <= self.threads <= 64:  # noqa: PLR2004 - one may hang; more than 64 help nobody
            raise ValueError(f"threads: from 2 to 64 expected, got {self.threads}")
        if not 0.05 <= self.timeout_s <= 600:  # noqa: PLR2004 - ten minutes
            raise ValueError(f"timeout_s: from 0.05 to 600 seconds expected, got {self.timeout_s:g}")
        if self.free_least_bytes < 0:
            raise ValueError(f"free_least_bytes: 0 or more expected, got {self.free_least_bytes}")
