"""Sweeping tier 2: what has expired, old history, forgotten deletions, blobs that nothing names, damage.

It may be killed anywhere, and several nodes may do it at once. Each step leaves what the next one would find anew:
the floor is raised before the tombstones beneath it go; a blob goes to the trash first, where a put finds it, and is
removed an hour later if nothing has named it since. All functions block, and raise OSError.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sparkd import MemoryRecord, TierSwept, reached

from .clock import just_after
from .directory_blobs import is_whole, set_blob_aside
from .directory_changes import remove_old_logs
from .directory_files import (
    HEAD,
    PART,
    DamagedError,
    Layout,
    key_folders,
    make_folder,
    names_in,
    packed,
    read_whole,
    unpacked,
    versions,
    write_file,
)
from .directory_records import LOCK, read_version, set_aside, settle

YOUNG_S = 3600.0
"""What is younger may belong to a write that is under way."""
NOBODY = "0" * 32
SCRUB = "scrub.json"
FLOOR = "floor-"


@dataclass(slots=True)
class Sweep:
    """One round."""

    layout: Layout
    now_ms: int
    tombstones_before: str
    history_before: str
    history_most: int
    scrub: int
    records: int = 0
    old: int = 0
    tombstones: int = 0
    blobs: int = 0
    bytes: int = 0
    checked: int = 0
    damaged: list[str] = field(default_factory=list)
    damaged_records: int = 0
    _named: set[str] = field(default_factory=set)
    _graves: list[Path] = field(default_factory=list)
    _floor: str = ""

    def run(self) -> TierSwept:
        """Do it all."""
        clock_s = self._server_time()
        for folder in key_folders(self.layout):
            with suppress(FileNotFoundError):
                self._key(folder, clock_s)
        self._bury()
        self._trash(clock_s)
        self._scrub()
        remove_old_logs(self.layout)
        return TierSwept(
            records=self.records,
            history=self.old,
            tombstones=self.tombstones,
            blobs=self.blobs,
            bytes=self.bytes,
            checked=self.checked,
            damaged=self.damaged,
            damaged_records=self.damaged_records,
        )

    def _server_time(self) -> float:
        """Return the time by the clock that files get theirs from: the NAS's."""
        touched = self.layout.root / f"{PART}clock"
        touched.write_bytes(b"")
        found = touched.stat().st_mtime
        touched.unlink(missing_ok=True)
        return found

    def _key(self, folder: Path, clock_s: float) -> None:
        """Look after one key."""
        self._leftovers(folder, clock_s)
        try:
            head: MemoryRecord | None = unpacked(read_whole(folder / HEAD))
        except FileNotFoundError:
            head = None
        except DamagedError:
            set_aside(self.layout, folder / HEAD)
            self.damaged_records += 1
            head = None
        found = versions(folder)
        if head is None or (found and found[0] > head.version):
            head = settle(self.layout, folder)
        if head is None:
            return
        if head.expired(self.now_ms) and not head.deleted:
            head = self._expire(folder, head)
        elif head.version not in found:  # its file was damaged and set aside: the copy is as good
            write_file(folder / head.version, packed(head))
        self._history(folder, head, found)
        if head.deleted:
            if head.version < self.tombstones_before:
                self._graves.append(folder)
                self._floor = max(self._floor, head.version)
        elif head.is_blob:
            self._named.add(head.digest)

    def _leftovers(self, folder: Path, clock_s: float) -> None:
        for name in names_in(folder):
            if name.startswith((PART, FLOOR)):
                path = folder / name
                age_s = clock_s - path.stat().st_mtime
                old = name.startswith(FLOOR) and name.removeprefix(FLOOR) < self.history_before
                if age_s > YOUNG_S and (old or name.startswith(PART)):
                    path.unlink(missing_ok=True)

    def _expire(self, folder: Path, head: MemoryRecord) -> MemoryRecord:
        """Put a tombstone right above what has expired: an older version that comes late must not come back to life.

        It is the same whoever makes it.
        """
        grave = MemoryRecord(
            namespace=head.namespace,
            key=head.key,
            version=just_after(head.version, NOBODY),
            deleted=True,
            written_ms=head.hard_ms,
            privacy=head.privacy,
        )
        write_file(folder / grave.version, packed(grave))
        reached("memory.sweep-expired")
        settled = settle(self.layout, folder)
        (folder / head.version).unlink(missing_ok=True)
        self.records += 1
        self.bytes += head.size
        return settled or grave

    def _history(self, folder: Path, head: MemoryRecord, found: list[str]) -> None:
        older = [version for version in found if version < head.version]
        for number, version in enumerate(older):
            if number >= self.history_most or version < self.history_before:
                (folder / version).unlink(missing_ok=True)
                self.old += 1
                continue
            record = read_version(self.layout, folder, version)
            if record is None:
                self.damaged_records += 1
            elif record.is_blob and not record.expired(self.now_ms):
                self._named.add(record.digest)

    def _bury(self) -> None:
        """Forget deletions that are old enough; first say which versions are too old to tell from now on."""
        if not self._graves:
            return
        raise_floor(self.layout, self._floor)
        reached("memory.sweep-floor")
        for folder in self._graves:
            with suppress(OSError):  # somebody has written the key in between
                settled = settle(self.layout, folder)
                if settled is None or not settled.deleted or settled.version > self._floor:
                    continue
                for name in [*versions(folder), HEAD, LOCK]:
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
                self.tombstones += 1

    def _trash(self, clock_s: float) -> None:
        """Throw out what nothing names; remove what was thrown out an hour ago and nothing names still."""
        make_folder(self.layout.trash)
        for name in names_in(self.layout.trash):
            path = self.layout.trash / name
            with suppress(FileNotFoundError):
                if name in self._named:
                    target = self.layout.blob(name)
                    make_folder(target.parent)
                    path.replace(target)
                elif clock_s - path.stat().st_ctime > YOUNG_S:
                    self.bytes += path.stat().st_size
                    path.unlink()
                    self.blobs += 1
        for first in names_in(self.layout.blobs):
            for name in names_in(self.layout.blobs / first):
                if name not in self._named:
                    with suppress(FileNotFoundError):
                        self._throw_out(self.layout.blobs / first / name, clock_s)

    def _throw_out(self, path: Path, clock_s: float) -> None:
        if clock_s - max(path.stat().st_mtime, path.stat().st_ctime) < YOUNG_S:
            return
        if path.name.startswith(PART):
            path.unlink()
        else:
            path.replace(self.layout.trash / path.name)
            reached("memory.sweep-trash")

    def _scrub(self) -> None:
        """Compare some blobs with what they are called, going on where the last round ended."""
        if not self.scrub:
            return
        all_names = [name for first in names_in(self.layout.blobs) for name in names_in(self.layout.blobs / first)]
        names = [name for name in all_names if len(name) == 64]  # noqa: PLR2004 - SHA-256
        place = self.layout.root / SCRUB
        after = ""
        with suppress(FileNotFoundError, ValueError):
            after = str(json.loads(read_whole(place)))
        due = [name for name in names if name > after][: self.scrub]
        due += [name for name in names if name <= after][: self.scrub - len(due)]
        for name in due:
            self.checked += 1
            if not is_whole(self.layout, name):
                set_blob_aside(self.layout, name)
                self.damaged.append(name)
        if due:
            write_file(place, json.dumps(due[-1]).encode())


def read_floor(layout: Layout) -> str:
    """Return the newest version whose tombstone may be gone; nothing if none is."""
    found = json.loads(read_whole(layout.about))
    return str(found.get("floor", "")) if isinstance(found, dict) else ""


def raise_floor(layout: Layout, floor: str) -> None:
    """Raise the floor, never lower it; looked at again, as another node may have written it at the same time."""
    for _ in range(10):
        found = json.loads(read_whole(layout.about))
        if found.get("floor", "") >= floor:
            return
        write_file(layout.about, json.dumps({**found, "floor": floor}).encode())
