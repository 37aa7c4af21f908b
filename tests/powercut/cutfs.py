"""The forgetful disk as a file system: `python -m tests.powercut.cutfs PLACE MOUNT`.

It begins with what is in the folder PLACE. A line of JSON, `{"seed": 7}` or `{"seed": null}`, on its standard input is
a power cut: PLACE then holds what is left, and the file system is gone. No program runs on it by then.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mfusepy

from tests.powercut.disk import Disk, File, Folder, Node, load, spill

HUGE_BLOCKS = 1 << 24


class CutFs(mfusepy.Operations):  # type: ignore[misc] # a class of an untyped library
    """Operations of FUSE on a `Disk`."""

    use_ns = True

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.open_files: dict[int, Node] = {}
        self.next = 1

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self.open_files.get(fh) if fh else None
        node = node or self.disk.find(path)
        size = len(node.data) if isinstance(node, File) else 0
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), int(node.at * 1e9))
        blocks = (size + 511) // 512
        return {
            "st_mode": node.mode, "st_nlink": max(node.links, 1), "st_size": size, "st_blocks": blocks,
            "st_uid": os.getuid(), "st_gid": os.getgid(), "st_ino": id(node), **times,
        }  # fmt: skip

    def readdir(self, path: str, fh: int) -> list[str]:
        node = self.disk.find(path)
        return [".", "..", *(node.names if isinstance(node, Folder) else ())]

    def _opened(self, node: Node) -> int:
        handle, self.next = self.next, self.next + 1
        self.open_files[handle] = node
        return handle

    def open(self, path: str, flags: int) -> int:
        return self._opened(self.disk.file(path))

    def opendir(self, path: str) -> int:
        return self._opened(self.disk.find(path))

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        node = File(stat.S_IFREG | stat.S_IMODE(mode))
        self.disk.add(path, node)
        return self._opened(node)

    def mkdir(self, path: str, mode: int) -> int:
        self.disk.add(path, Folder(stat.S_IFDIR | stat.S_IMODE(mode), links=2))
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self._file(fh).data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        node = self._file(fh)
        node.write(offset, data)
        node.at = time.time()
        return len(data)

    def _file(self, handle: int) -> File:
        node = self.open_files[handle]
        if not isinstance(node, File):
            raise OSError(errno.EISDIR, "a folder")
        return node

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        (self._file(fh) if fh else self.disk.file(path)).truncate(length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> int:
        node = self._file(fh)
        if mode == 0 and offset + length > len(node.data):
            node.truncate(offset + length)
        return 0

    def unlink(self, path: str) -> int:
        self.disk.remove(path)
        return 0

    def rmdir(self, path: str) -> int:
        self.disk.remove(path)
        return 0

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        self.disk.rename(old, new)
        return 0

    def link(self, target: str, source: str) -> int:
        node = self.disk.find(source)
        self.disk.add(target, node)
        node.links += 1
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._file(fh).sync()
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        node = self.open_files[fh]
        if isinstance(node, Folder):
            self.disk.sync_folder(node)
        return 0

    def release(self, path: str, fh: int) -> int:
        self.open_files.pop(fh, None)
        return 0

    releasedir = release

    def chmod(self, path: str, mode: int) -> int:
        node = self.disk.find(path)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        self.disk.find(path).at = times[1] / 1e9 if times else time.time()
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        blocks = dict.fromkeys(("f_blocks", "f_bfree", "f_bavail"), HUGE_BLOCKS)
        files = dict.fromkeys(("f_files", "f_ffree", "f_favail"), 1 << 20)
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255, **blocks, **files}

    def flush(self, path: str, fh: int) -> int:
        return 0


def obey(disk: Disk, place: Path, mount: Path) -> None:
    """Wait for the power cut, write down what is left, and let go of the mount."""
    line = sys.stdin.readline()
    seed = json.loads(line)["seed"] if line else None
    fresh = place.with_name(f"{place.name}.left")
    spill(disk.left(seed), fresh, seed)
    shutil.rmtree(place)
    fresh.rename(place)
    sys.stdout.write("cut\n")
    sys.stdout.flush()
    subprocess.run(["umount", "-l", str(mount)], check=False)
    os._exit(0)


def main() -> None:
    """Serve until the power is cut."""
    place, mount = Path(sys.argv[1]), Path(sys.argv[2])
    disk = Disk()
    load(disk, place)
    threading.Thread(target=obey, args=(disk, place, mount), daemon=True).start()
    # No caching of names or attributes: several processes look at the same files.
    options = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    mfusepy.FUSE(CutFs(disk), str(mount), foreground=True, nothreads=True, fsname="cutfs", **options)


if __name__ == "__main__":
    main()
