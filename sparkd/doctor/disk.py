"""Disks: room, wear, errors, mounts and their encryption."""

from __future__ import annotations

import os
import threading  # noqa: TID251 - a dead network mount holds whoever looks for ever: only a thread may
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning

LOW_ROOM, NO_ROOM = 0.10, 0.03
LOW_BYTES = 500 << 20
LOOK_LIMIT_S = 2.0
WORN = 8
"""eMMC says its wear in tenths (JEDEC JESD84-B51, DEVICE_LIFE_TIME_EST): 8 is 70 to 80 percent."""
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"}
VOLATILE = {"tmpfs", "ramfs", "overlay"}


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    point: Path
    kind: str
    device: str
    """major:minor."""
    options: tuple[str, ...]


def mounts(scene: Scene) -> list[Mount]:
    """Return what is mounted."""
    found = []
    for line in (scene.read("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()[:1]
        if len(fields) > 5 and kind:  # noqa: PLR2004 - proc_pid_mountinfo(5)
            point = fields[4].encode().decode("unicode_escape")
            found.append(Mount(Path(point), kind[0], fields[2], tuple(fields[5].split(","))))
    return found


def mount_of(path: Path, among: list[Mount]) -> Mount | None:
    """Return the mount that *path* lies on."""
    fits = [mount for mount in among if path.is_relative_to(mount.point)]
    return max(fits, key=lambda mount: len(mount.point.parts), default=None)


def answers(path: Path) -> bool:
    """Whether the file system of *path* answers within 2 s."""
    done = threading.Event()

    def look() -> None:
        path.exists()
        done.set()

    threading.Thread(target=look, daemon=True).start()
    return done.wait(LOOK_LIMIT_S)


@named("room on disk")
def room(scene: Scene) -> Iterator[Finding]:
    """Whether there is room where the node keeps things."""
    for name in ("state", "cache", "runtime"):
        folder: Path = getattr(scene.places, name)
        if not folder.is_dir():
            yield skipped(f"{folder} is not there yet", "the daemon makes it at its first start")
            continue
        try:
            found = os.statvfs(folder)
        except OSError as error:
            yield problem(f"{folder}: {error.strerror}", "see its mount and its rights")
            continue
        free, share = found.f_bavail * found.f_frsize, found.f_bavail / max(found.f_blocks, 1)
        text = f"{folder}: {free >> 20} MB free ({share:.0%})"
        remedy = "make room; sparkctl outbox shows what waits, [outbox] max_bytes bounds it"
        if found.f_files and found.f_favail / found.f_files < NO_ROOM:
            yield problem(f"{folder}: almost no file can be made any more", "find the folder with too many small files")
        elif share < NO_ROOM:
            yield problem(text, remedy)
        elif share < LOW_ROOM and free < LOW_BYTES:
            yield warning(text, remedy)
        else:
            yield ok(text)


@named("state that lasts")
def lasting(scene: Scene) -> Iterator[Finding]:
    """Whether what is kept outlives a power cut."""
    mount = mount_of(scene.places.state, mounts(scene))
    if mount is None:
        yield skipped("its mount is not known")
    elif mount.kind in VOLATILE:
        yield warning(f"{scene.places.state} is on {mount.kind}: nothing there outlives a restart", "[node] state_dir")
    elif "ro" in mount.options:
        yield problem(f"{scene.places.state} is read-only", "the kernel does so after errors: journalctl -k; then fsck")
    elif mount.kind in NETWORK:
        yield warning(f"{scene.places.state} is on {mount.kind}: it is gone when the network is", "a local disk")
    else:
        yield ok(f"{scene.places.state} is on {mount.kind}")


@named("disk wear")
def wear(scene: Scene) -> Iterator[Finding]:
    """How much of its life an eMMC has left; cards do not say."""
    cards = scene.glob("/sys/block/mmcblk*/device/life_time")
    for file in cards:
        block = file.parent.parent.name
        worst = max((int(value, 16) for value in file.read_text().split()), default=0)
        ends = scene.read(f"/sys/block/{block}/device/pre_eol_info")
        if ends in ("0x02", "0x03") or worst > WORN:
            yield problem(f"{block}: {worst * 10} % of its life is used", "replace it; sparkctl backup comes first")
        else:
            yield ok(f"{block}: {max(worst - 1, 0) * 10} to {worst * 10} % of its life is used")
    if not cards:
        yield skipped("no disk here says how worn it is")


@named("disk errors")
def errors(scene: Scene) -> Iterator[Finding]:
    """What the file system has met."""
    count = 0
    for file in scene.glob("/sys/fs/ext4/*/errors_count"):
        found = int(file.read_text() or 0)
        count += found
        if found:
            yield problem(
                f"{file.parent.name}: {found} errors of the file system", "sparkctl backup, then fsck at start"
            )
    if not count:
        yield ok("no file system has met an error")


@named("configured mounts")
def configured(scene: Scene) -> Iterator[Finding]:
    """Whether what the config names is mounted, answers, and is encrypted."""
    wanted = sorted(set(_paths(scene)))
    if not wanted:
        yield skipped("the config names no folder on another mount")
        return
    held = mounts(scene)
    for path in wanted:
        mount = mount_of(path, held)
        if not answers(path):
            yield problem(f"{path}: does not answer", f"see the mount: systemctl status '*.mount'; umount -l {path}")
        elif not path.exists():
            yield problem(f"{path}: is not there", "mount it, make it, or correct the config")
        elif mount is None or mount.point == Path("/"):
            yield note(
                f"{path}: lies on the system's own disk", "is it meant to be a mount?" if "mnt" in path.parts else ""
            )
        else:
            yield ok(f"{path}: {mount.kind}, {_encryption(scene, mount)}")


def _paths(scene: Scene) -> Iterator[Path]:
    """Yield the folders that plugins' tables name, and the mounts they need."""
    for table in scene.config.plugins.values():
        for value in table.table.values():
            if isinstance(value, str) and value.startswith(("/mnt/", "/media/", "/srv/", "/data/")):
                yield Path(value)
        for need in getattr(table, "needs", ()):
            if need.startswith("mount:"):
                yield Path(need.split(":")[1])


@named("encryption")
def encryption(scene: Scene) -> Iterator[Finding]:
    """Whether what a thief would carry away can be read: the node's key and its outbox."""
    mount = mount_of(scene.places.state, mounts(scene))
    if mount is None or mount.kind in VOLATILE:
        yield skipped("the state folder is on no disk")
    elif _encryption(scene, mount).startswith("encrypted"):
        yield ok(f"{scene.places.state} is on an encrypted disk")
    else:
        yield note(f"{scene.places.state} is not on an encrypted disk", "who takes the disk has the node's key: LUKS")


def _encryption(scene: Scene, mount: Mount) -> str:
    if mount.kind in NETWORK:
        return "encryption is the server's business"
    return "encrypted (LUKS)" if _is_luks(scene, f"/sys/dev/block/{mount.device}") else "not encrypted"


def _is_luks(scene: Scene, block: str, depth: int = 0) -> bool:
    """Whether a block device, or any it lies on, is a LUKS container."""
    if (scene.read(f"{block}/dm/uuid") or "").startswith("CRYPT-LUKS"):
        return True
    below = scene.glob(f"{block}/slaves/*")
    return depth < 5 and any(_is_luks(scene, f"/{path.relative_to(scene.root)}", depth + 1) for path in below)  # noqa: PLR2004 - LVM on RAID on LUKS is three


CHECKS = (room, lasting, wear, errors, configured, encryption)
