"""Records in tier 2: versions that never change, and a copy of the newest. No lock: names say which is newer.

Several nodes put at once, and none knows of the others. Each writes its version's file, lists what there is, makes
`head` a copy of the newest, and lists again: if a newer one has come by then, it does so once more. Take the two that
wrote `head` last, A before B. If B copied an older version than A did, A's file was there before A wrote `head`, so it
was there when B listed after writing, and B copies it. So the last copy is always of the newest. Whoever is killed in
between leaves a `head` that is too old: until the next put of the key, or the next sweep, which compares them all.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparkd import MemoryRecord, TierPut, reached

from .directory_files import (
    HEAD,
    DamagedError,
    Layout,
    make_folder,
    packed,
    part_of,
    read_whole,
    replace,
    sync_folder,
    unpacked,
    versions,
    write_file,
    written_beside,
)

ROUNDS = 100
LOCK = "lock"


def read_head(layout: Layout, namespace: str, key: str) -> MemoryRecord | None:
    """Return the newest record of a key; None if there is none. A damaged copy is made anew. Raises OSError."""
    folder = layout.key(namespace, key)
    try:
        record = unpacked(read_whole(folder / HEAD))
    except FileNotFoundError:
        return None
    except DamagedError:
        set_aside(layout, folder / HEAD)
        record_or_none = settle(layout, folder)
        return record_or_none if record_or_none is not None and _is(record_or_none, namespace, key) else None
    return record if _is(record, namespace, key) else None


def _is(record: MemoryRecord, namespace: str, key: str) -> bool:
    return record.namespace == namespace and record.key == key


def read_version(layout: Layout, folder: Path, version: str) -> MemoryRecord | None:
    """Return one version; None if it is gone, or damaged: then it is set aside."""
    try:
        return unpacked(read_whole(folder / version))
    except FileNotFoundError:
        return None
    except DamagedError:
        set_aside(layout, folder / version)
        return None


def set_aside(layout: Layout, path: Path) -> None:
    """Put a damaged file where nobody takes it for what it was."""
    make_folder(layout.damaged)
    with suppress(FileNotFoundError):
        path.replace(layout.damaged / f"{path.parent.name}-{part_of(path).name.strip('.')}")


def history(layout: Layout, namespace: str, key: str) -> list[MemoryRecord]:
    """Return all versions of a key that there are, newest first."""
    folder = layout.key(namespace, key)
    found = (read_version(layout, folder, version) for version in versions(folder))
    return [record for record in found if record is not None and _is(record, namespace, key)]


def put(layout: Layout, record: MemoryRecord, floor: str) -> TierPut:
    """Keep *record*, and say what it is among the versions of its key. Raises OSError."""
    folder = layout.key(record.namespace, record.key)
    newest = _newest(layout, folder)
    if newest == record.version:
        settle(layout, folder)
        return TierPut(outcome="same", winner=newest)
    if not newest and record.version < floor:
        write_file(folder / f"floor-{record.version}", packed(record))
        return TierPut(outcome="floor", winner="")
    if record.version > newest and _write_newest(folder, record):
        return TierPut(outcome="stored", winner=record.version)
    if not (folder / record.version).exists():
        write_file(folder / record.version, packed(record))
    reached("memory.directory-version")
    head = settle(layout, folder)
    winner = record.version if head is None else head.version
    return TierPut(outcome="stored" if winner == record.version else "older", winner=winner)


def _write_newest(folder: Path, record: MemoryRecord) -> bool:
    """Write a version and `head` at once, as if one after the other; True unless somebody else put a newer one."""
    version, head = folder / record.version, folder / HEAD
    with written_beside([version, head], packed(record)) as parts:
        replace(parts[0], version)
        del parts[0]
        reached("memory.directory-version")
        if versions(folder)[:1] == [record.version]:
            replace(parts[0], head)
            del parts[0]
            reached("memory.directory-head")
    sync_folder(folder)
    return versions(folder)[:1] == [record.version]


def _newest(layout: Layout, folder: Path) -> str:
    try:
        return unpacked(read_whole(folder / HEAD)).version
    except (FileNotFoundError, DamagedError):
        found = settle(layout, folder)
        return "" if found is None else found.version


def settle(layout: Layout, folder: Path) -> MemoryRecord | None:
    """Make `head` a copy of the newest version; return that. See the top of this module."""
    seen = ""
    record: MemoryRecord | None = None
    for _ in range(ROUNDS):
        found = versions(folder)
        if not found or found[0] == seen:
            break
        record = read_version(layout, folder, found[0])
        if record is None:
            continue
        seen = found[0]
        if _head_version(folder) != seen:
            write_file(folder / HEAD, packed(record))
            reached("memory.directory-head")
    return record


def _head_version(folder: Path) -> str:
    try:
        return unpacked(read_whole(folder / HEAD)).version
    except (OSError, DamagedError):
        return ""


def cas(layout: Layout, record: MemoryRecord, etag: str, floor: str) -> TierPut:
    """Keep *record* if the newest version is *etag*. Raises OSError.

    The lock is fcntl's (NFS 4 and SMB carry it to all nodes). A put takes none: with a newer version it wins anyway,
    as if it had come right after.
    """
    folder = layout.key(record.namespace, record.key)
    make_folder(folder)
    with _locked(folder / LOCK):
        now = settle(layout, folder)
        if now is not None and now.version == record.version:
            return TierPut(outcome="same", winner=now.version)
        there = "" if now is None or (now.deleted and not etag) else now.version
        if there != etag or (now is not None and now.version > record.version):
            return TierPut(outcome="older", winner="" if now is None else now.version)
        return put(layout, record, "" if now is not None else floor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
