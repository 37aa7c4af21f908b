"""The file system of `slow_disk`: `python -m tests.plugins.slow_disk_fs FOLDER MOUNT CONTROL CACHED_S`."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import mfusepy


class Through(mfusepy.Operations):  # type: ignore[misc] # a class of an untyped library
    use_ns = True

    def __init__(self, folder: str, control: str) -> None:
        self.folder, self.control = folder, control
        self.seen: tuple[int, dict[str, Any]] = (0, {})

    def how(self, *, writes: bool = False) -> dict[str, Any]:
        at = os.stat(self.control).st_mtime_ns  # noqa: PTH116 - the fastest
        if at != self.seen[0]:
            self.seen = (at, json.loads(Path(self.control).read_text()))
        said = self.seen[1]
        if said.get("delay_s"):
            time.sleep(said["delay_s"])
        if said.get("errno"):
            raise mfusepy.FuseOSError(said["errno"])
        if writes and said.get("full"):
            raise mfusepy.FuseOSError(errno.ENOSPC)
        return said

    def real(self, path: str) -> str:
        return self.folder + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        self.how()
        found = os.lstat(self.real(path))
        names = ("mode", "nlink", "size", "blocks", "uid", "gid", "ino")
        times = {f"st_{name}": getattr(found, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")}
        return {**{f"st_{name}": getattr(found, f"st_{name}") for name in names}, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        self.how()
        return [".", "..", *os.listdir(self.real(path))]  # noqa: PTH208 - names

    def open(self, path: str, flags: int) -> int:
        self.how()
        return os.open(self.real(path), flags)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self.how(writes=True)
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        said = self.how()
        content = os.pread(fh, size, offset)
        return bytes([content[0] ^ 1]) + content[1:] if said.get("corrupt") and content else content

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.how(writes=True)
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self.how(writes=True)
        os.truncate(self.real(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.how()
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        self.how(writes=True)
        os.mkdir(self.real(path), mode)  # noqa: PTH102 - as FUSE has it

    def rmdir(self, path: str) -> None:
        self.how()
        os.rmdir(self.real(path))  # noqa: PTH106 - likewise

    def unlink(self, path: str) -> None:
        self.how()
        os.unlink(self.real(path))  # noqa: PTH108 - likewise

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.how()
        os.rename(self.real(old), self.real(new))  # noqa: PTH104 - likewise

    def link(self, target: str, source: str) -> None:
        self.how(writes=True)
        os.link(self.real(source), self.real(target))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self.real(path), mode)  # noqa: PTH101 - likewise

    def utimens(self, path: str, times: Any = None) -> None:
        os.utime(self.real(path), ns=times)

    def statfs(self, path: str) -> dict[str, int]:
        self.how()
        found = os.statvfs(self.real(path))
        names = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "flag", "frsize", "namemax")
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}


if __name__ == "__main__":
    behind, seen, how, cached_s = sys.argv[1:]
    known = {"attr_timeout": float(cached_s), "entry_timeout": float(cached_s)}
    mfusepy.FUSE(Through(behind, how), seen, foreground=True, nothreads=False, **known)
