"""The writing end of shared memory: slots found, reused, added and given back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparkd.arrays import total_bytes
from sparkd.codec import Buffer
from sparkd.errors import LocalMessageError
from sparkd.reference import VERSION, Reference
from sparkd.shm.room import (
    DATA_AT,
    HEADER,
    MAGIC,
    OWNER,
    UNBORN,
    NoRoomError,
    NoSharedMemoryError,
    budget,
    lock,
    modes,
    names,
    opened,
    sweep,
    unlock,
)

ROUND_BYTES = 64 << 10
"""Slots are made in steps of this, so that one fits what is a little longer the next time."""
MAX_SLOTS = 32
"""Each is two open files of the writer."""
FRESH_S = 1.0
"""A slot written within this time is used again only if no other can be had: its readers may be on the way."""
IDLE_S = 10.0
"""A slot not used for so long is given back."""
MAX_PIECES = 512
"""In one `pwritev`; the kernel takes 1024."""


@dataclass(slots=True, eq=False)
class _Slot:
    number: int
    descriptor: int
    capacity: int
    mapped: mmap.mmap | None = None
    """Of one that is used again: to write so takes a third of the time of a system call that copies."""
    used_at: float = 0.0


@dataclass(slots=True)
class _Parcel:
    """A slot for one reader, who removes it."""

    capacity: int
    expires_at: float


class SharedWriter:
    """Writes for the readers of one node. Nothing is made before the first `put`. Not for threads."""

    def __init__(self, root: Path, *, service: str, max_total_bytes: int) -> None:
        """Write as *service* beneath *root*, while all writers together stay within *max_total_bytes*."""
        self._root, self._service = root, service
        self._max_total = max_total_bytes
        self.max_bytes = max_total_bytes // 2
        """The most that this writer may have, and so the longest that it can send."""
        self.folder = ""
        self._descriptors: list[int] = []
        self._slots: list[_Slot] = []
        self._parcels: dict[int, _Parcel] = {}
        self._generation = self._numbers = 0

    def put(self, pieces: Sequence[Buffer], *, about: bytes | None = None, keep_s: float = 0.0) -> Reference:
        """Write *pieces*, one after another, and return where they are.

        With *keep_s* they are for one reader, who removes them, and never overwritten; without it they are there until
        the room is needed. Raises NoRoomError if there is none now, NoSharedMemoryError if there never
        is, LocalMessageError for what is too long.
        """
        length = total_bytes(pieces)
        at = _aligned(pieces)
        needed = -(-(at + length) // ROUND_BYTES) * ROUND_BYTES
        if needed > self.max_bytes:
            raise LocalMessageError(
                f"{length} bytes; shared memory takes {max(self.max_bytes - ROUND_BYTES, 0)} at the most at a time, "
                f"half of [bus] shm_max_bytes"
            )
        try:
            self._open()
            slot = self._add(needed, once=True) if keep_s else self._find(needed)
            self._fill(slot, at, length, pieces)
        except OSError as error:
            kind = NoRoomError if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EMFILE} else NoSharedMemoryError
            raise kind(f"no shared memory: {error.strerror}: {self._root}") from None
        if keep_s:
            self._parcels[slot.number] = _Parcel(slot.capacity, time.monotonic() + keep_s)
            os.close(slot.descriptor)
        else:
            slot.used_at = time.monotonic()
            unlock(slot.descriptor)
        return Reference(VERSION, self.folder, slot.number, self._generation, at, length, about)

    def withdraw(self, reference: Reference) -> None:
        """Remove a parcel that nobody will fetch any more; one that was fetched is gone already."""
        if self._parcels.pop(reference.slot, None) is not None:
            self._expire(reference.slot)

    def trim(self) -> None:
        """Give back what has not been used for a while; call it now and then."""
        now = time.monotonic()
        for slot in [slot for slot in self._slots if now - slot.used_at > IDLE_S]:
            if lock(slot.descriptor, fcntl.LOCK_EX):
                self._drop(slot)
        self._look_after_parcels(now)

    def close(self) -> None:
        """Stop writing. What was sent can still be read until the folder is swept."""
        for slot in self._slots:
            self._close(slot)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._slots, self._descriptors, self.folder = [], [], ""
        self._parcels.clear()

    def _open(self) -> None:
        if self.folder:
            return
        name = f"{self._service}.{os.urandom(8).hex()}"
        try:
            root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._descriptors.append(root)
            self._make(root, name)
        except OSError:
            self.close()
            raise
        self.folder = name

    def _make(self, root: int, name: str) -> None:
        """Make the folder, owned from the moment that anybody else can see it."""
        unborn = UNBORN + name
        folder_mode, self._file_mode = modes(root)
        os.mkdir(unborn, dir_fd=root)
        folder = os.open(unborn, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        self._descriptors.append(folder)
        owner = os.open(OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
        self._descriptors.append(owner)
        fcntl.flock(owner, fcntl.LOCK_EX)
        os.chmod(unborn, folder_mode, dir_fd=root)
        os.rename(unborn, name, src_dir_fd=root, dst_dir_fd=root)

    def _find(self, needed: int) -> _Slot:
        """Return a slot of at least *needed* bytes, locked."""
        fitting = sorted((slot for slot in self._slots if slot.capacity >= needed), key=lambda slot: slot.used_at)
        before = time.monotonic() - FRESH_S
        for slot in fitting:
            if slot.used_at < before and lock(slot.descriptor, fcntl.LOCK_EX):
                return slot
        try:
            added = self._add(needed)
        except NoRoomError:
            for slot in fitting:
                if lock(slot.descriptor, fcntl.LOCK_EX):
                    return slot
            raise
        self._slots.append(added)
        return added

    def _add(self, needed: int, *, once: bool = False) -> _Slot:
        """Return a new slot, locked."""
        root = self._descriptors[0]
        self._look_after_parcels(time.monotonic())
        for last in (False, True):
            while self._own() + needed > self.max_bytes or len(self._slots) >= MAX_SLOTS:
                self._give_up_one(self._max_total if once else needed)
            with budget(root) as used:
                if used is not None and used + needed <= self._max_total:
                    return self._new(needed, mapped=not once)
            if not last:
                sweep(self._root)
        raise NoRoomError(f"shared memory is full: {self._max_total} bytes ([bus] shm_max_bytes)")

    def _give_up_one(self, below: int) -> None:
        """Remove the slot of less than *below* bytes unused for longest. Raises NoRoomError if readers have all."""
        for slot in sorted(self._slots, key=lambda slot: slot.used_at):
            if slot.capacity < below and lock(slot.descriptor, fcntl.LOCK_EX):
                self._drop(slot)
                return
        raise NoRoomError(f"shared memory of this service is in use: {self.max_bytes} bytes, half of shm_max_bytes")

    def _own(self) -> int:
        return sum(slot.capacity for slot in self._slots) + sum(one.capacity for one in self._parcels.values())

    def _new(self, capacity: int, *, mapped: bool) -> _Slot:
        self._numbers += 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(str(self._numbers), flags, 0o600, dir_fd=self._descriptors[1])
        slot = _Slot(self._numbers, descriptor, capacity)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.fchmod(descriptor, self._file_mode)
            os.ftruncate(descriptor, capacity)
            if mapped:
                os.posix_fallocate(descriptor, 0, capacity)  # where it is full this fails, and not the writing
                slot.mapped = mmap.mmap(descriptor, capacity)
        except OSError:
            self._drop(slot)
            raise
        return slot

    def _fill(self, slot: _Slot, at: int, length: int, pieces: Sequence[Buffer]) -> None:
        self._generation += 1
        try:
            self._write(slot, at, length, pieces)
        except OSError:
            self._drop(slot)
            raise

    def _write(self, slot: _Slot, at: int, length: int, pieces: Sequence[Buffer]) -> None:
        """Write data, then the header that makes it valid. A writer that dies in between leaves generation 0."""
        os.pwrite(slot.descriptor, HEADER.pack(MAGIC, 0, 0), 0)
        if slot.mapped is None:
            _write_all(slot.descriptor, at, pieces)
        else:
            for piece in pieces:
                slot.mapped[at : at + len(piece)] = piece
                at += len(piece)
        os.pwrite(slot.descriptor, HEADER.pack(MAGIC, self._generation, length), 0)

    def _drop(self, slot: _Slot) -> None:
        if slot in self._slots:
            self._slots.remove(slot)
        self._unlink(slot.number)
        self._close(slot)

    @staticmethod
    def _close(slot: _Slot) -> None:
        if slot.mapped is not None:
            slot.mapped.close()
        os.close(slot.descriptor)

    def _unlink(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(str(number), dir_fd=self._descriptors[1])

    def _look_after_parcels(self, now: float) -> None:
        """Forget parcels that were fetched; remove those that nobody fetches."""
        there = set(names(self._descriptors[1])) if self._parcels else set()
        for number, parcel in list(self._parcels.items()):
            if parcel.expires_at < now and str(number) in there:
                self._expire(number)
            if str(number) not in there:
                del self._parcels[number]

    def _expire(self, number: int) -> None:
        """Remove a parcel; one that its reader has just opened, the reader removes."""
        with (
            contextlib.suppress(FileNotFoundError),
            opened(str(number), os.O_RDWR, within=self._descriptors[1]) as held,
        ):
            if lock(held, fcntl.LOCK_EX):
                self._unlink(number)


def _write_all(descriptor: int, at: int, pieces: Sequence[Buffer]) -> None:
    views = [memoryview(piece) for piece in pieces if len(piece)]
    while views:
        written = os.pwritev(descriptor, views[:MAX_PIECES], at)
        at += written
        while views and written >= views[0].nbytes:
            written -= views.pop(0).nbytes
        if written:
            views[0] = views[0][written:]


def _aligned(pieces: Sequence[Buffer]) -> int:
    """Return where the first piece goes so that the second, the first array's data, begins at a cache line."""
    first = len(pieces[0]) if len(pieces) > 1 else 0
    return DATA_AT + -first % DATA_AT
