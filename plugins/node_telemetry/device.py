"""Reading the machine: psutil for what the kernel says in many places, sysfs for sensors. Blocking, all of it.

Sensors are read from sysfs directly, so that a folder can stand in for it; psutil's own list is wired to /sys. A sensor
that fails to answer is left out: broken ones are common, and the others still count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sparkd import DeviceError, Disk, Interface, Telemetry

from .config import NodeTelemetryConfig
from .policy import Mount, busy_and_idle, busy_percent, matches, worth_reporting

POSSIBLE_C = (-60.0, 250.0)
"""What is outside is a sensor that is not there: -273, 65535 and the like."""

THROTTLED_FILES = ("devices/platform/soc/soc:firmware/get_throttled", "devices/platform/soc*/*firmware/get_throttled")
"""The firmware driver's file; its place varies with the board's device tree, so patterns follow the known one."""

UNDER_VOLTAGE_NOW = 0x1


@dataclass(frozen=True, slots=True)
class Sample:
    """What one look at the machine gave."""

    telemetry: Telemetry
    throttled: int | None


class Machine:
    """The machine, between looks: it keeps the last CPU times, for how busy it was is a difference."""

    def __init__(self, config: NodeTelemetryConfig) -> None:
        """Look at nothing yet. Raises DeviceError if psutil is not installed."""
        self._psutil = _psutil()
        self._config = config
        self._cpu: list[tuple[float, float]] = []

    def sample(self) -> Sample:
        """Look once. The first sample's CPU figures are those since boot."""
        psutil, config = self._psutil, self._config
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        each = self._busy_each()
        telemetry = Telemetry(
            cpu_percent=round(sum(each) / max(1, len(each)), 1),
            cpu_percent_each=each,
            cpu_mhz=cpu_mhz(config.sysfs),
            load_1min=round(os.getloadavg()[0], 2),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            swap_used_bytes=swap.used,
            uptime_s=round(time.clock_gettime(time.CLOCK_BOOTTIME), 1),
            temperatures_c=temperatures(config.sysfs),
            disks=self._disks(),
            interfaces=self._interfaces(),
        )
        return Sample(telemetry, throttled(config.sysfs))

    def _busy_each(self) -> list[float]:
        # psutil's own cpu_percent keeps its last reading per thread, and threads vary here.
        times = [busy_and_idle(cpu._asdict()) for cpu in self._psutil.cpu_times(percpu=True)]
        before = self._cpu if len(self._cpu) == len(times) else [(0.0, 0.0)] * len(times)
        self._cpu = times
        return [busy_percent(before=old, after=new) for old, new in zip(before, times, strict=True)]

    def _disks(self) -> list[Disk]:
        # all=False leaves out what is not on a disk, network mounts among it: a dead server must not hang the look.
        mounts = [Mount(part.device, part.mountpoint, part.fstype) for part in self._psutil.disk_partitions(all=False)]
        chosen = worth_reporting(mounts, ignore=self._config.ignore_mounts)
        paths = [mount.mount for mount in chosen if Path(mount.mount).is_dir()]
        if "/" not in paths:  # in a container the root is an overlay, but its space still counts
            paths.insert(0, "/")
        return [disk for path in paths for disk in self._usage(path)]

    def _usage(self, path: str) -> Iterable[Disk]:
        try:
            usage = self._psutil.disk_usage(path)
        except OSError:  # unmounted since, or not ours to see
            return
        yield Disk(mount=path, total_bytes=usage.total, used_bytes=usage.used, free_bytes=usage.free)

    def _interfaces(self) -> list[Interface]:
        states: Mapping[str, Any] = self._psutil.net_if_stats()
        # nowrap: some drivers count in 32 bits; psutil adds up what wrapped.
        counters: Mapping[str, Any] = self._psutil.net_io_counters(pernic=True, nowrap=True) or {}
        return [
            Interface(
                name=name,
                up=name in states and states[name].isup,
                sent_bytes=count.bytes_sent,
                received_bytes=count.bytes_recv,
                errors=count.errin + count.errout,
                drops=count.dropin + count.dropout,
            )
            for name, count in sorted(counters.items())
            if not matches(name, self._config.ignore_interfaces)
        ]


def _psutil() -> ModuleType:
    try:
        import psutil  # noqa: PLC0415 - probing a plugin must not cost it
    except ImportError as error:
        raise DeviceError(f"psutil cannot be imported: {error}", remedy="pip install 'sparkd[telemetry]'") from error
    return psutil


def temperatures(sysfs: Path) -> dict[str, float]:
    """Return the degrees of every sensor that answers: thermal zones by type, then hwmon chips by name and label."""
    found: dict[str, float] = {}
    for zone in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        _note(found, _text(zone / "type") or zone.name, _text(zone / "temp"))
    zones = {name.replace("_", "-") for name in found}
    for sensor in sorted(sysfs.glob("class/hwmon/hwmon*/temp*_input")):
        chip = _text(sensor.parent / "name") or sensor.parent.name
        if chip.replace("_", "-") not in zones:  # the kernel shows each thermal zone as a chip again
            label = _text(sensor.with_name(sensor.name.replace("_input", "_label")))
            _note(found, f"{chip} {label}".strip(), _text(sensor))
    return found


def _note(found: dict[str, float], name: str, millidegrees: str) -> None:
    try:
        degrees = int(millidegrees) / 1000
    except ValueError:
        return
    if not POSSIBLE_C[0] <= degrees <= POSSIBLE_C[1]:
        return
    number, unique = 2, name
    while unique in found:
        unique, number = f"{name} {number}", number + 1
    found[unique] = degrees


def throttled(sysfs: Path) -> int | None:
    """Return the Pi firmware's `get_throttled` bits; None where there is no such firmware.

    Where only the voltage sensor `rpi_volt` is there, its alarm stands for the first bit.
    """
    for pattern in THROTTLED_FILES:
        for file in sorted(sysfs.glob(pattern)):
            try:
                return int(_text(file), 16)
            except ValueError:
                continue
    for name in sorted(sysfs.glob("class/hwmon/hwmon*/name")):
        if _text(name) == "rpi_volt":
            alarm = _text(name.with_name("in0_lcrit_alarm"))
            if alarm in {"0", "1"}:
                return UNDER_VOLTAGE_NOW * int(alarm)
    return None


def cpu_mhz(sysfs: Path) -> float | None:
    """Return the mean of the CPUs' present clocks; None where the kernel does not say."""
    texts = [_text(file) for file in sysfs.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq")]
    clocks = [int(text) / 1000 for text in texts if text.isdecimal()]
    return round(sum(clocks) / len(clocks), 1) if clocks else None


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:  # absent, or a sensor that does not answer
        return ""
