"""What the readings mean, as pure functions: which mounts count, how busy a CPU was, what is wrong.

A problem begins at one threshold and ends at another, or after some calm samples, so that a value on the edge does not
cry every ten seconds. The state between two samples is a `Health` value, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from fnmatch import fnmatchcase

from sparkd import Disk, Telemetry

from .config import NodeTelemetryConfig

READ_ONLY_IMAGES = frozenset({"squashfs", "iso9660", "erofs", "cramfs", "udf"})
"""File systems that are always full, and mean nothing by it."""

IN_MEMORY = frozenset({"tmpfs", "devtmpfs", "ramfs", "overlay", "autofs", "rootfs"})
"""File systems that are memory or somebody else's disk seen again."""


class Throttled(IntFlag):
    """The bits of the Pi firmware's `get_throttled`; the same 16 higher say "has happened since boot"."""

    UNDER_VOLTAGE = 1
    FREQUENCY_CAPPED = 2
    THROTTLED = 4
    SOFT_TEMPERATURE_LIMIT = 8


NOW = 0xF
SINCE_BOOT_SHIFT = 16

ADVICE = {
    Throttled.UNDER_VOLTAGE: (
        "under-voltage",
        "the supply voltage is too low; use a supply that gives 5 V at 5 A, and a short cable",
    ),
    Throttled.THROTTLED: (
        "throttled",
        "the firmware slows the processor down, by heat or low voltage; improve cooling or the supply",
    ),
}
"""The bits that are problems by themselves. A capped frequency and the soft limit are how the firmware copes with heat,
which its own threshold tells."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    device: str
    mount: str
    kind: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong. `key` stays the same while it lasts; the sentence carries the present figure."""

    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Health:
    """What is known after a sample."""

    problems: tuple[Problem, ...] = ()
    throttled: int | None = None
    calm: Mapping[str, int] = field(default_factory=dict)
    """For each flag still held, samples since it was last seen."""

    @property
    def keys(self) -> frozenset[str]:
        """What is wrong, by key."""
        return frozenset(problem.key for problem in self.problems)


def worth_reporting(mounts: Iterable[Mount], *, ignore: Sequence[str]) -> list[Mount]:
    """Return the mounts that are disks of this machine, each disk once, by its shortest path."""
    chosen: dict[str, Mount] = {}
    for mount in sorted(mounts, key=lambda mount: len(mount.mount)):
        if mount.kind in READ_ONLY_IMAGES | IN_MEMORY or mount.device.startswith(("/dev/loop", "/dev/ram")):
            continue
        if matches(mount.mount, ignore):
            continue
        chosen.setdefault(mount.device, mount)  # a bind mount shows the same disk again
    return sorted(chosen.values(), key=lambda mount: mount.mount)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether *name* matches one of the shell *patterns*."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def busy_and_idle(times: Mapping[str, float]) -> tuple[float, float]:
    """Return the (busy, idle) seconds of a CPU from its times by name. Waiting for a disk is idling.

    Time of guests is left out, for Linux counts it within `user` and `nice` as well.
    """
    idle = times["idle"] + times.get("iowait", 0.0)
    busy = sum(seconds for name, seconds in times.items() if name not in {"idle", "iowait", "guest", "guest_nice"})
    return busy, idle


def busy_percent(*, before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the share of time a CPU was busy between two readings of its (busy, idle) seconds.

    Idle time has been seen to run backwards by a tick (a CPU going off-line, a guest's clock): that counts as none.
    """
    busy, idle = max(0.0, after[0] - before[0]), max(0.0, after[1] - before[1])
    total = busy + idle
    return round(100.0 * busy / total, 1) if total > 0 else 0.0


def latch(previous: int | None, now: int | None) -> int | None:
    """Return the throttled bits with everything seen before kept in their upper half.

    The kernel clears the firmware's own memory of it when it looks, so it cannot be relied on.
    """
    if now is None:
        return None if previous is None else previous & ~NOW
    return now | (now & NOW) << SINCE_BOOT_SHIFT | (previous or 0) & ~NOW


def assess(before: Health, telemetry: Telemetry, throttled: int | None, limits: NodeTelemetryConfig) -> Health:
    """Return the node's health after this sample, given what it was *before*."""
    held = before.keys
    kept = latch(before.throttled, throttled)
    calm = _calm(before.calm, 0 if throttled is None else throttled, limits)
    problems = [
        *_disk_problems(telemetry.disks, held, limits),
        *_memory_problems(telemetry, held, limits),
        *_heat_problems(telemetry.temperatures_c, held, limits),
        *(Problem(key, f"{key}: {advice}") for key, advice in ADVICE.values() if key in calm),
    ]
    return Health(tuple(problems), kept, calm)


def worth_saying(before: Health, after: Health) -> bool:
    """Whether something began, ended, or a throttle bit changed: not merely a figure."""
    return before.keys != after.keys or before.throttled != after.throttled


def _calm(before: Mapping[str, int], throttled: int, limits: NodeTelemetryConfig) -> dict[str, int]:
    calm = {}
    for bit, (key, _) in ADVICE.items():
        if throttled & bit:
            calm[key] = 0
        elif key in before and before[key] + 1 < limits.calm_samples:
            calm[key] = before[key] + 1
    return calm


def _disk_problems(disks: Iterable[Disk], held: frozenset[str], limits: NodeTelemetryConfig) -> Iterable[Problem]:
    for disk in disks:
        usable = disk.used_bytes + disk.free_bytes  # without what is reserved for root, as df counts it
        percent = 100.0 * disk.used_bytes / usable if usable else 0.0
        key = f"disk:{disk.mount}"
        if percent >= (limits.disk_ok_percent if key in held else limits.disk_full_percent):
            yield Problem(
                key, f"disk {disk.mount} is {percent:.0f} % full, {_size(disk.free_bytes)} free; make room on it"
            )


def _memory_problems(telemetry: Telemetry, held: frozenset[str], limits: NodeTelemetryConfig) -> Iterable[Problem]:
    percent = 100.0 * telemetry.memory_available_bytes / max(1, telemetry.memory_total_bytes)
    if percent <= (limits.memory_ok_percent if "memory" in held else limits.memory_low_percent):
        available = _size(telemetry.memory_available_bytes)
        yield Problem("memory", f"memory is short: {available} ({percent:.0f} %) left; stop what is not needed")


def _heat_problems(
    temperatures: Mapping[str, float], held: frozenset[str], limits: NodeTelemetryConfig
) -> Iterable[Problem]:
    for name, degrees in temperatures.items():
        key = f"hot:{name}"
        if degrees >= (limits.cool_c if key in held else limits.hot_c):
            yield Problem(key, f"{name} is at {degrees:.0f} °C; check fan and air flow")


def _size(count: int) -> str:
    for unit, power in (("GB", 10**9), ("MB", 10**6)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
