"""The machine itself: memory, heat, power, clock, limits."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Iterator

from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning
from sparkd.outbox.clock import clock_is_synchronised

LOW_MEMORY = 0.10
HOT_C, SCALDING_C = 75.0, 80.0
"""A Pi 5 begins to slow down at 80 degrees, and lets go at 85 (Raspberry Pi documentation, frequency management)."""
MIN_INOTIFY_WATCHES = 8192
MIN_OPEN_FILES = 1024
PI5_SUPPLY_MA = 5000
_THROTTLED = {0: "under-voltage", 1: "the clock is capped", 2: "throttled", 3: "the soft temperature limit"}
"""Bits of `vcgencmd get_throttled`; sixteen higher: it has happened since the start."""
_SINCE = 16


@named("python")
def python(_scene: Scene) -> Iterator[Finding]:
    """The interpreter."""
    version, machine = platform.python_version(), platform.machine()
    if machine not in ("x86_64", "aarch64") or sys.maxsize < 1 << 32:
        yield problem(f"{machine}, {struct.calcsize('P') * 8} bits", "a 64-bit system is needed, x86-64 or aarch64")
    else:
        yield ok(f"Python {version}, {machine}")


@named("memory")
def memory(scene: Scene) -> Iterator[Finding]:
    """What is free, and what the kernel had to kill."""
    lines = (scene.read("/proc/meminfo") or "").splitlines()
    values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    if not total:
        yield skipped("/proc/meminfo cannot be read")
    elif free < total * LOW_MEMORY:
        remedy = "see sparkctl top, and memory_max_bytes in [plugins.NAME]"
        yield warning(f"{free // 1024} of {total // 1024} MB are free", remedy)
    else:
        yield ok(f"{free // 1024} of {total // 1024} MB are free")
    kills = next(
        (line.split()[1] for line in (scene.read("/proc/vmstat") or "").splitlines() if "oom_kill" in line), "0"
    )
    if kills != "0":
        yield warning(
            f"the kernel has killed {kills} processes for want of memory since it started", "journalctl -k -g oom"
        )


@named("memory limits")
def memory_controller(scene: Scene) -> Iterator[Finding]:
    """Whether limits of memory can be kept: Raspberry Pi OS starts without the controller."""
    held = scene.read("/sys/fs/cgroup/cgroup.controllers")
    if held is None:
        yield note("no cgroup v2: limits of services are kept by the process, less strictly", "")
    elif "memory" not in held.split():
        file = "/boot/firmware/cmdline.txt"
        yield warning(
            "the kernel runs without memory limits", f"add cgroup_enable=memory to the line in {file}, restart"
        )
    else:
        yield ok("the kernel keeps limits of memory")


@named("temperature")
def temperature(scene: Scene) -> Iterator[Finding]:
    """The hottest zone."""
    found = [(value / 1000, zone) for zone in scene.glob("/sys/class/thermal/thermal_zone*") if (value := _milli(zone))]
    if not found:
        yield skipped("no temperature sensor")
        return
    hottest, zone = max(found)
    name = scene.read(f"/{zone.relative_to(scene.root)}/type") or zone.name
    if hottest >= SCALDING_C:
        yield problem(f"{name}: {hottest:.0f} °C: it slows down", "fit a cooler, clear the vents, or shed work")
    elif hottest >= HOT_C:
        yield warning(f"{name}: {hottest:.0f} °C", "fit a cooler, or clear the vents, before it slows down")
    else:
        yield ok(f"{name}: {hottest:.0f} °C")


def _milli(zone: object) -> int:
    try:
        return int((zone / "temp").read_text())  # type: ignore[operator] # a Path
    except (OSError, ValueError):
        return 0


@named("throttling")
def throttling(scene: Scene) -> Iterator[Finding]:
    """Whether the firmware slows a Raspberry Pi down, or had to."""
    if not _is_pi(scene):
        yield skipped("not a Raspberry Pi")
        return
    said = (scene.run(["vcgencmd", "get_throttled"]) or "").strip()
    if not said.startswith("throttled="):
        yield skipped(f"vcgencmd does not say: {said[:80] or 'no answer'}", "apt install raspi-utils; group video")
        return
    bits = int(said.partition("=")[2], 16)
    now = [text for bit, text in _THROTTLED.items() if bits >> bit & 1]
    before = [text for bit, text in _THROTTLED.items() if bits >> bit + _SINCE & 1]
    remedy = "a supply of 5 V and 5 A, a shorter cable, a cooler"
    if now:
        yield problem(f"now: {', '.join(now)}", remedy)
    elif before:
        yield warning(f"since it started: {', '.join(before)}", remedy)
    else:
        yield ok("neither now nor since it started")


@named("power supply")
def supply(scene: Scene) -> Iterator[Finding]:
    """What the supply of a Pi 5 says it can give."""
    file = scene.path("/proc/device-tree/chosen/power/max_current")
    try:
        milliamps = int.from_bytes(file.read_bytes()[:4])
    except OSError:
        yield skipped("the firmware does not say")
        return
    if milliamps < PI5_SUPPLY_MA:
        yield warning(
            f"{milliamps} mA: USB devices get 600 mA in all", "use the 27 W supply, or one that offers 5 V at 5 A"
        )
    else:
        yield ok(f"{milliamps} mA")


@named("clock")
def clock(scene: Scene) -> Iterator[Finding]:
    """Whether the wall clock can be believed."""
    if not clock_is_synchronised():
        yield warning("the clock is not synchronised", "systemctl status systemd-timesyncd; records keep arrival times")
    else:
        yield ok("the clock is synchronised")
    if _is_pi(scene) and not scene.glob("/sys/class/rtc/rtc*"):
        yield note("no clock that runs without power", "after a power cut, time comes with the network only")


@named("inotify")
def inotify(scene: Scene) -> Iterator[Finding]:
    """Whether changes of files can be noticed."""
    watches = scene.number("/proc/sys/fs/inotify/max_user_watches")
    instances = scene.number("/proc/sys/fs/inotify/max_user_instances")
    if watches is None or instances is None:
        yield skipped("the kernel does not say")
    elif watches < MIN_INOTIFY_WATCHES:
        remedy = f"sysctl fs.inotify.max_user_watches={MIN_INOTIFY_WATCHES * 4}, and in /etc/sysctl.d"
        yield warning(f"only {watches} files can be watched", remedy)
    else:
        yield ok(f"{watches} files can be watched, {instances} times")


@named("open files")
def open_files(scene: Scene) -> Iterator[Finding]:
    """Whether the machine as a whole is near its limit."""
    used, _, most = (scene.read("/proc/sys/fs/file-nr") or "0 0 0").split()
    if int(most) and int(used) > 0.9 * int(most):
        yield problem(f"{used} of {most} files are open", "find who leaks: ls /proc/*/fd | sort")
    else:
        yield ok(f"{used} files are open on the whole machine")


def _is_pi(scene: Scene) -> bool:
    return "Raspberry Pi" in (scene.read("/proc/device-tree/model") or "")


CHECKS = (python, memory, memory_controller, temperature, throttling, supply, clock, inotify, open_files)
