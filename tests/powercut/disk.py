"""A disk that forgets: what a program sees, and what would be left if the power went now. Pure: no file, no FUSE.

The rules are those of POSIX and no kinder: fsync of a file makes its content last, fsync of a folder makes the names in
it last, and nothing else lasts for certain. A name that lasts may stand for content that does not. When the power goes,
of everything that was not synced any part may have reached the disk: pages of a write in any order, a page in part, the
first so many changes of names.
"""

from __future__ import annotations

import errno
import random
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PAGE, SECTOR = 4096, 512


@dataclass(eq=False)
class Node:
    """A file or a folder."""

    mode: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    at: float = field(default_factory=time.time)


@dataclass(eq=False)
class File(Node):
    """A file: its content as programs see it, as it lasts, and what was done since."""

    data: bytearray = field(default_factory=bytearray)
    lasting: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes (offset, content) and truncations (size, None) since the last sync."""

    def write(self, offset: int, content: bytes) -> None:
        """Write as programs do."""
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(content)] = content
        self.since.append((offset, content))

    def truncate(self, size: int) -> None:
        """Change the size."""
        _resize(self.data, size)
        self.since.append((size, None))

    def sync(self) -> None:
        """Make the content last."""
        self.lasting, self.since = bytes(self.data), []

    def left(self, chance: random.Random | None) -> bytes:
        """Return what is left of the content; without *chance* only what was synced."""
        content = bytearray(self.lasting)
        for offset, written in self.since if chance else ():
            if written is None:
                if chance and chance.random() < 0.5:
                    _resize(content, offset)
                continue
            for begin, piece in _pages(offset, written):
                if chance and chance.random() < 0.5:
                    torn = piece[: chance.randrange(0, len(piece), SECTOR)] if chance.random() < 0.2 else piece
                    if begin > len(content):
                        content.extend(bytes(begin - len(content)))
                    content[begin : begin + len(torn)] = torn
        return bytes(content)


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _pages(offset: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield a write in pieces that end at the ends of pages."""
    done = 0
    while done < len(content):
        room = PAGE - (offset + done) % PAGE
        yield offset + done, content[done : done + room]
        done += room


@dataclass(eq=False)
class Folder(Node):
    """A folder: its names as programs see them, and those that last."""

    names: dict[str, Node] = field(default_factory=dict)
    lasting: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A change of names that does not last yet: each is (folder, name, what it stands for from then on)."""

    steps: tuple[tuple[Folder, str, Node | None], ...]

    def touches(self, folders: set[int]) -> bool:
        return any(id(folder) in folders for folder, _, _ in self.steps)

    def last(self) -> None:
        for folder, name, node in self.steps:
            if node is None:
                folder.lasting.pop(name, None)
            else:
                folder.lasting[name] = node


class Disk:
    """The tree, and the changes of names that may still be lost."""

    def __init__(self) -> None:
        self.root = Folder(stat.S_IFDIR | 0o755, links=2)
        self.changes: list[Change] = []

    def find(self, path: str) -> Node:
        """Return what is at *path*. Raises OSError(ENOENT)."""
        node: Node = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(node, Folder) or name not in node.names:
                raise OSError(errno.ENOENT, path)
            node = node.names[name]
        return node

    def file(self, path: str) -> File:
        """Return the file at *path*. Raises OSError."""
        node = self.find(path)
        if not isinstance(node, File):
            raise OSError(errno.EISDIR, path)
        return node

    def parent(self, path: str) -> tuple[Folder, str]:
        """Return the folder that *path* is in, and its name there. Raises OSError."""
        above, _, name = path.rstrip("/").rpartition("/")
        folder = self.find(above)
        if not isinstance(folder, Folder):
            raise OSError(errno.ENOTDIR, above)
        return folder, name

    def add(self, path: str, node: Node) -> None:
        """Give *node* the name *path*. Raises OSError(EEXIST)."""
        folder, name = self.parent(path)
        if name in folder.names:
            raise OSError(errno.EEXIST, path)
        self._change((folder, name, node))

    def remove(self, path: str) -> None:
        """Take the name away."""
        node = self.find(path)
        if isinstance(node, Folder) and node.names:
            raise OSError(errno.ENOTEMPTY, path)
        folder, name = self.parent(path)
        node.links -= 1
        self._change((folder, name, None))

    def rename(self, old: str, new: str) -> None:
        """Give what is at *old* the name *new*, in place of what may be there: all or nothing."""
        node = self.find(old)
        source, name = self.parent(old)
        target, fresh = self.parent(new)
        there = target.names.get(fresh)
        if isinstance(there, Folder) and there.names:
            raise OSError(errno.ENOTEMPTY, new)
        self._change((source, name, None), (target, fresh, node))

    def _change(self, *steps: tuple[Folder, str, Node | None]) -> None:
        for folder, name, node in steps:
            if node is None:
                folder.names.pop(name, None)
            else:
                folder.names[name] = node
        self.changes.append(Change(steps))

    def sync_folder(self, folder: Folder) -> None:
        """Make the names in *folder* last, with all earlier changes that these depend on."""
        wanted = {id(folder)}
        chosen: list[Change] = []
        for change in reversed(self.changes):
            if change.touches(wanted):
                chosen.append(change)
                wanted |= {id(place) for place, _, _ in change.steps}
        for change in reversed(chosen):
            change.last()
            self.changes.remove(change)

    def left(self, seed: int | None) -> Folder:
        """Return the root as a power cut leaves it; *seed* decides about what was not synced, None loses all of it.

        Only `lasting` of it counts from then on; write it out with `spill`.
        """
        if seed is not None:
            chance = random.Random(seed)
            for change in self.changes[: chance.randint(0, len(self.changes))]:
                change.last()
        return self.root


def spill(folder: Folder, place: Path, seed: int | None) -> None:
    """Write what is left of *folder* to the real folder *place*."""
    place.mkdir(exist_ok=True)
    for name, node in folder.lasting.items():
        if isinstance(node, Folder):
            spill(node, place / name, seed)
            (place / name).chmod(stat.S_IMODE(node.mode))
        elif isinstance(node, File):
            chance = None if seed is None else random.Random(f"{seed} {place}/{name}")
            (place / name).write_bytes(node.left(chance))
            (place / name).chmod(stat.S_IMODE(node.mode))


def load(disk: Disk, place: Path, path: str = "") -> None:
    """Fill *disk* with what is in the real folder *place*; all of it lasts."""
    for entry in sorted(place.iterdir()):
        name = f"{path}/{entry.name}"
        if entry.is_dir():
            disk.add(name, Folder(stat.S_IFDIR | stat.S_IMODE(entry.stat().st_mode), links=2))
            load(disk, entry, name)
        else:
            content = entry.read_bytes()
            disk.add(
                name, File(stat.S_IFREG | stat.S_IMODE(entry.stat().st_mode), data=bytearray(content), lasting=content)
            )
    for change in disk.changes:
        change.last()
    disk.changes.clear()
