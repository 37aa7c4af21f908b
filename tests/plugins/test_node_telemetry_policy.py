"""What counts as a disk, how busy a CPU was, and when a problem begins and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import Disk, Telemetry
from sparkd_plugins.node_telemetry.config import NodeTelemetryConfig
from sparkd_plugins.node_telemetry.policy import (
    NOW,
    Health,
    Mount,
    assess,
    busy_and_idle,
    busy_percent,
    latch,
    matches,
    worth_reporting,
    worth_saying,
)

LIMITS = NodeTelemetryConfig()
WELL = Telemetry(
    cpu_percent=3.0,
    load_1min=0.1,
    memory_total_bytes=8_000_000_000,
    memory_available_bytes=6_000_000_000,
    uptime_s=100.0,
    temperatures_c={"cpu-thermal": 50.0},
    disks=[Disk(mount="/", total_bytes=110, used_bytes=50, free_bytes=50)],
)


def disk(percent: int) -> Telemetry:
    return replace(WELL, disks=[Disk(mount="/", total_bytes=110, used_bytes=percent, free_bytes=100 - percent)])


def memory(percent: float) -> Telemetry:
    return replace(WELL, memory_available_bytes=round(80_000_000 * percent))


def heat(degrees: float) -> Telemetry:
    return replace(WELL, temperatures_c={"cpu-thermal": degrees})


def keys_over(samples: list[Telemetry], throttled: list[int | None] | None = None) -> list[list[str]]:
    health, seen = Health(), []
    for sample, bits in zip(samples, throttled or [None] * len(samples), strict=True):
        health = assess(health, sample, bits, LIMITS)
        seen.append(sorted(health.keys))
    return seen


def test_a_well_machine_has_no_problems() -> None:
    assert keys_over([WELL]) == [[]]


@pytest.mark.parametrize(
    ("samples", "key"),
    [
        ([disk(89), disk(90), disk(86), disk(84), disk(89)], "disk:/"),
        ([memory(9), memory(8), memory(11), memory(13), memory(9)], "memory"),
        ([heat(79.9), heat(80), heat(76), heat(74), heat(79)], "hot:cpu-thermal"),
    ],
)
def test_a_problem_begins_at_one_threshold_and_ends_at_another(samples: list[Telemetry], key: str) -> None:
    assert keys_over(samples) == [[], [key], [key], [], []]


def test_throttling_is_over_after_so_many_calm_samples() -> None:
    bits: list[int | None] = [0, 0x50005, 0x50000, 0x50004, 0x50000, 0x50000, 0x50000]

    assert keys_over([WELL] * 7, bits) == [
        [],
        ["throttled", "under-voltage"],
        ["throttled", "under-voltage"],
        ["throttled", "under-voltage"],
        ["throttled"],
        ["throttled"],
        [],
    ]


def test_every_problem_says_what_and_what_to_do() -> None:
    bad = replace(
        disk(97),
        memory_available_bytes=100_000_000,
        temperatures_c={"cpu-thermal": 84.2},
    )

    sentences = [problem.sentence for problem in assess(Health(), bad, 0x1, LIMITS).problems]

    assert sentences == [
        "disk / is 97 % full, 0 kB free; make room on it",
        "memory is short: 100.0 MB (1 %) left; stop what is not needed",
        "cpu-thermal is at 84 °C; check fan and air flow",
        "under-voltage: the supply voltage is too low; use a supply that gives 5 V at 5 A, and a short cable",
    ]


def test_a_figure_alone_is_not_worth_saying() -> None:
    before = assess(Health(), disk(91), None, LIMITS)
    later = assess(before, disk(92), None, LIMITS)

    assert before.problems != later.problems
    assert not worth_saying(before, later)
    assert worth_saying(later, assess(later, disk(10), None, LIMITS))
    assert worth_saying(later, assess(later, disk(92), 0x1, LIMITS))


def test_no_disks_and_an_empty_disk_are_no_problem() -> None:
    nothing = replace(WELL, disks=[Disk(mount="/odd", total_bytes=0, used_bytes=0, free_bytes=0)], temperatures_c={})

    assert keys_over([nothing]) == [[]]


@pytest.mark.parametrize(
    ("previous", "now", "expected"),
    [
        (None, None, None),
        (None, 0, 0),
        (None, 0x5, 0x50005),
        (0x50005, 0, 0x50000),  # the firmware forgot, we did not
        (0x50000, 0x80008, 0xD0008),
        (0x50005, None, 0x50000),
    ],
)
def test_what_has_happened_since_boot_is_kept(previous: int | None, now: int | None, expected: int | None) -> None:
    assert latch(previous, now) == expected


@given(st.lists(st.integers(0, 0xF000F), min_size=1, max_size=10))
def test_the_latch_never_forgets_and_shows_the_present(readings: list[int]) -> None:
    state = None
    for reading in readings:
        state = latch(state, reading)

    assert state is not None
    assert state & NOW == readings[-1] & NOW
    assert all(state >> 16 & reading & NOW == reading & NOW for reading in readings)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((10.0, 10.0), (11.0, 11.0), 50.0),
        ((10.0, 10.0), (12.0, 10.0), 100.0),
        ((10.0, 10.0), (10.0, 12.0), 0.0),
        ((10.0, 10.0), (10.0, 10.0), 0.0),
        ((10.0, 10.0), (11.0, 9.9), 100.0),  # idle ran backwards
        ((0.0, 0.0), (25.0, 75.0), 25.0),
    ],
)
def test_busy_is_a_share_of_the_time_between(
    before: tuple[float, float], after: tuple[float, float], expected: float
) -> None:
    assert busy_percent(before=before, after=after) == expected


def test_time_of_guests_is_not_counted_twice() -> None:
    times = {"user": 5.0, "nice": 1.0, "system": 2.0, "idle": 80.0, "iowait": 12.0, "guest": 4.0, "guest_nice": 1.0}

    assert busy_and_idle(times) == (8.0, 92.0)


def test_only_disks_of_this_machine_are_reported() -> None:
    mounts = [
        Mount("/dev/mmcblk0p2", "/", "ext4"),
        Mount("/dev/mmcblk0p1", "/boot/firmware", "vfat"),
        Mount("/dev/mmcblk0p2", "/var/lib/docker/volumes/x/_data", "ext4"),
        Mount("/dev/mmcblk0p2", "/srv/bind", "ext4"),
        Mount("/dev/loop3", "/snap/core/1", "squashfs"),
        Mount("/dev/loop4", "/mnt/image", "ext4"),
        Mount("/dev/sr0", "/media/cd", "iso9660"),
        Mount("tmpfs", "/run", "tmpfs"),
        Mount("overlay", "/var/lib/docker/overlay2/y/merged", "overlay"),
        Mount("/dev/sdb1", "/var/lib/docker/z", "ext4"),
        Mount("/dev/sda1", "/mnt/nvme", "xfs"),
    ]

    chosen = worth_reporting(mounts, ignore=LIMITS.ignore_mounts)

    assert [mount.mount for mount in chosen] == ["/", "/boot/firmware", "/mnt/nvme"]


def test_a_disk_mounted_twice_counts_once_by_its_shortest_path() -> None:
    mounts = [Mount("/dev/sda1", "/mnt/deep/down", "ext4"), Mount("/dev/sda1", "/mnt/a", "ext4")]

    assert [mount.mount for mount in worth_reporting(mounts, ignore=[])] == ["/mnt/a"]


@pytest.mark.parametrize("name", ["lo", "veth12ab", "docker0", "br-0a1b", "virbr0", "cni0"])
def test_interfaces_of_containers_are_ignored(name: str) -> None:
    assert matches(name, LIMITS.ignore_interfaces)


@pytest.mark.parametrize("name", ["eth0", "wlan0", "wg0", "tun0", "end0", "bridge"])
def test_interfaces_of_the_machine_are_not(name: str) -> None:
    assert not matches(name, LIMITS.ignore_interfaces)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interval_s": 0.0}, "interval_s: must be a positive number, got 0.0"),
        ({"interval_s": float("inf")}, "interval_s: must be a positive number, got inf"),
        ({"hot_c": float("nan")}, "hot_c: must be a positive number, got nan"),
        ({"calm_samples": 0}, "calm_samples: must be a positive number, got 0"),
        ({"hot_c": 70.0}, "hot_c: must be above cool_c, got 70.0 and 75.0"),
        ({"memory_low_percent": 20.0}, "memory_low_percent: must be below memory_ok_percent, got 20.0 and 12.0"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        NodeTelemetryConfig(**values)  # type: ignore[arg-type]  # a table of wrong values
