"""Linux's own power supplies (`/sys/class/power_supply`): batteries, chargers and UPSs that have a kernel driver.

Values and units are those of `Documentation/ABI/testing/sysfs-class-power`: micro-volts, micro-amperes, micro-watts.
The kernel says when one changes (a uevent); besides, all are read at an interval.
"""

from __future__ import annotations

import errno
import fnmatch
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError, PowerReading

from .pace import Pace
from .ranges import HOUR_S, check_range
from .source import Listener

FEEDS = ("Mains", "USB", "Wireless")
STORES = ("Battery", "UPS")
MICRO = 1e-6
UEVENTS = 15
"""NETLINK_KOBJECT_UEVENT (linux/netlink.h)."""
KERNEL_GROUP = 1
MISSES = 3
MAX_BYTES = 4096


def _sysfs() -> Path:
    return Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerSupplyConfig:
    """The table `[plugins.power-monitor.power_supply.NAME]`."""

    names: list[str] = field(default_factory=lambda: ["*"])
    """Shell patterns of the supplies to read."""
    ignore_scope: bool = False
    """Whether batteries of mice and phones (scope `Device`) count too."""
    interval_s: float = 1.0
    sysfs: Path = field(default_factory=_sysfs)

    def __post_init__(self) -> None:
        check_range("interval_s", self.interval_s, 0.1, HOUR_S)
        if not self.names:
            raise ValueError("names: at least one pattern expected")


class PowerSupplySource:
    """Reads the supplies when the kernel says that one changed, and at an interval."""

    def __init__(self, config: PowerSupplyConfig) -> None:
        self._config = config

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if there is no supply, or none is left."""
        first, missed, pace = True, 0, Pace(self._config.interval_s)
        with uevents() as news:
            while True:
                supplies = await anyio.to_thread.run_sync(read_all, self._config, abandon_on_cancel=True)
                missed = 0 if supplies else missed + 1
                if missed and (first or missed >= MISSES):
                    folder = self._config.sysfs / "class/power_supply"
                    remedy = "load the driver of the battery, or mend names; see: ls /sys/class/power_supply"
                    raise DeviceError(f"no power supply in {folder} is called {self._config.names}", remedy=remedy)
                pause_s = self._config.interval_s
                if supplies:
                    pause_s = pace.after(self._tell(supplies, to, first=first))
                    first = False
                await self._wait(news, pause_s)

    @staticmethod
    def _tell(supplies: Mapping[str, Mapping[str, str]], to: Listener, *, first: bool) -> bool | None:
        if first:
            to.found(", ".join(f"{name} ({_who(one)})" for name, one in supplies.items()))
        reading, doubts = together(supplies)
        if doubts:
            to.garbage("; ".join(doubts))
        to.reading(reading)
        return reading.mains

    @staticmethod
    async def _wait(news: socket.socket | None, pause_s: float) -> None:
        """Return after *pause_s*, or as soon as a supply changed."""
        if news is None:
            await anyio.sleep(pause_s)
            return
        with anyio.move_on_after(pause_s):
            while True:
                await anyio.wait_readable(news)
                if any("SUBSYSTEM=power_supply" in message for message in drained(news)):
                    return


@contextmanager
def uevents() -> Iterator[socket.socket | None]:
    """Open the kernel's news of devices; None where it cannot be had (a container, a stricter kernel)."""
    try:
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, UEVENTS)
    except OSError:
        yield None
        return
    with news:
        try:
            news.bind((0, KERNEL_GROUP))
        except OSError:
            yield None
            return
        yield news


def drained(news: socket.socket) -> list[str]:
    """Return the messages that are there. An overflow means that some are lost: it counts as one of ours."""
    messages: list[str] = []
    while True:
        try:
            messages.append(news.recv(MAX_BYTES).decode(errors="replace"))
        except BlockingIOError:
            return messages
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            messages.append("SUBSYSTEM=power_supply")


def read_all(config: PowerSupplyConfig) -> dict[str, dict[str, str]]:
    """Return the attributes of each supply that is wanted. Blocks; one that vanishes meanwhile is left out."""
    found = {}
    folder = config.sysfs / "class/power_supply"
    for supply in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not any(fnmatch.fnmatchcase(supply.name, pattern) for pattern in config.names):
            continue
        attributes = _attributes(supply)
        if attributes.get("type") and (config.ignore_scope or attributes.get("scope") != "Device"):
            found[supply.name] = attributes
    return found


def _attributes(supply: Path) -> dict[str, str]:
    values = {}
    for name in NAMES:
        try:
            with (supply / name).open("rb") as file:
                values[name] = file.read(MAX_BYTES).decode(errors="replace").strip()
        except OSError:  # not every driver has every attribute, and some say ENODATA
            continue
    return values


NAMES = (
    "type",
    "scope",
    "status",
    "online",
    "present",
    "capacity",
    "capacity_level",
    "voltage_now",
    "current_now",
    "power_now",
    "energy_full",
    "charge_full",
    "voltage_min_design",
    "temp",
    "time_to_empty_now",
    "manufacturer",
    "model_name",
    "health",
)


def _who(supply: Mapping[str, str]) -> str:
    named = " ".join(supply[name] for name in ("manufacturer", "model_name") if supply.get(name))
    return named or supply["type"].lower()


def together(supplies: Mapping[str, Mapping[str, str]]) -> tuple[PowerReading, list[str]]:
    """Return one reading of all *supplies*, and what of them could not be understood.

    Batteries add up: their watts, and their charges weighted by their capacity (evenly if one does not tell it).
    """
    doubts: list[str] = []
    stores = [
        _store(name, one, doubts)
        for name, one in supplies.items()
        if one["type"] in STORES and one.get("present") != "0"
    ]
    feeds = [one.get("online") for one in supplies.values() if one["type"] in FEEDS and one.get("online") is not None]
    mains = any(online in ("1", "2") for online in feeds) if feeds else _by_status(stores)
    watts = [one.watts for one in stores]
    temperatures = [one.temperature_c for one in stores if one.temperature_c is not None]
    amps = [one.amps for one in stores]
    volts = [one.volts for one in stores if one.volts is not None]
    single = len(stores) == 1
    reading = PowerReading(
        mains=mains,
        battery_volts=volts[0] if volts and single else None,
        battery_amps=amps[0] if single else None,
        battery_watts=_sum(watts),
        charge_percent=_charge(stores),
        capacity_wh=_sum([one.capacity_wh for one in stores]),
        time_to_empty_s=stores[0].empty_s if single and mains is False else None,
        temperature_c=max(temperatures, default=None),
        battery_low=bool(stores) and mains is False and all(one.low for one in stores),
        detail={name: f"{one.get('status', '')} {one.get('health', '')}".strip() for name, one in supplies.items()},
    )
    return reading, doubts


@dataclass(frozen=True, slots=True)
class _Store:
    status: str
    percent: float | None
    volts: float | None
    amps: float | None
    watts: float | None
    capacity_wh: float | None
    temperature_c: float | None
    empty_s: float | None
    low: bool


def _store(name: str, supply: Mapping[str, str], doubts: list[str]) -> _Store:
    def number(attribute: str, scale: float = 1.0) -> float | None:
        text = supply.get(attribute)
        if text is None:
            return None
        try:
            return int(text) * scale
        except (ValueError, OverflowError):
            doubts.append(f"{name}/{attribute}: a whole number expected, got {text[:40]!r}")
            return None

    status = supply.get("status", "Unknown")
    volts, amps, watts = number("voltage_now", MICRO), number("current_now", MICRO), number("power_now", MICRO)
    # Drivers do not agree whether what a battery gives is negative: its status does.
    amps, watts = _signed(amps, status), _signed(watts, status)
    if watts is None and volts is not None and amps is not None:
        watts = volts * amps
    capacity, charge, at = (
        number("energy_full", MICRO),
        number("charge_full", MICRO),
        number("voltage_min_design", MICRO),
    )
    if capacity is None and charge is not None and (at or volts) is not None:
        capacity = charge * (at or volts or 0.0)
    return _Store(
        status=status,
        percent=number("capacity"),
        volts=volts,
        amps=amps,
        watts=watts,
        capacity_wh=capacity,
        temperature_c=number("temp", 0.1),
        empty_s=number("time_to_empty_now"),
        low=supply.get("capacity_level") == "Critical",
    )


def _signed(value: float | None, status: str) -> float | None:
    if value is None:
        return None
    return {"Discharging": -abs(value), "Charging": abs(value)}.get(status, value)


def _by_status(stores: list[_Store]) -> bool | None:
    """Without a supply that says whether it feeds, a battery's status does: one that gives has nobody to feed it."""
    said = {one.status for one in stores}
    if "Discharging" in said:
        return False
    return True if said & {"Charging", "Full", "Not charging"} else None


def _charge(stores: list[_Store]) -> float | None:
    known = [(one.percent, one.capacity_wh) for one in stores if one.percent is not None]
    if not known:
        return None
    whole = sum(capacity or 0.0 for _, capacity in known)
    if whole > 0 and all(capacity for _, capacity in known):
        return sum(percent * (capacity or 0.0) for percent, capacity in known) / whole
    return sum(percent for percent, _ in known) / len(known)


def _sum(values: list[float | None]) -> float | None:
    """Return the sum; None if one of them is not known, or there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
