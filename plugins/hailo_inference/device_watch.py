"""Watching over the accelerator while the service runs: its heat, its loss, its coming back.

A lost device ends the service, with its sentence and remedy: the supervisor replaces the process, and the new one opens
the device afresh. Calls under way have failed by then, each with UNAVAILABLE and the remedy to call again; a watched
picture stays in its folder and is looked at by the new process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from prometheus_client import CollectorRegistry, Gauge

from sparkd import Context, DeviceError, Troubles

from .config import HailoInferenceConfig
from .device_config import HailoConfig
from .device_lost import DeviceLostError

if TYPE_CHECKING:  # they bring numpy, which probing must not pay for
    from .device import Runtimes
    from .device_hailo import HailoDevice, Reading

COOLER_C = 5.0
"""It counts as hot until it is so much cooler than the limit, so that it does not go to and fro."""
SILENT_READINGS = 3
"""After so many readings in a row that failed, the device is taken for lost."""
RETRY_S = 60.0
"""How often a device that could not be opened is tried again; a start of the service is all it takes."""


@dataclass
class Heat:
    """Whether the accelerator is too hot, and what that means for sources."""

    config: HailoConfig
    hot: bool = False
    celsius: float | None = None

    @property
    def rate(self) -> float:
        """The share of its frame rate that a source keeps now: 1.0, or less while it is hot."""
        return self.config.hot_rate if self.hot else 1.0

    def takes(self, celsius: float) -> bool:
        """Take a temperature; return whether it has become hot, or cool again, by it."""
        before, self.celsius = self.hot, celsius
        self.hot = celsius > self.config.hot_c - (COOLER_C if before else 0.0)
        return self.hot is not before


class Gauges:
    """What Prometheus is shown of the device."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register in *registry*."""
        self._celsius = Gauge("sparkd_hailo_temperature_celsius", "The hotter of its two sensors", registry=registry)
        self._watts = Gauge("sparkd_hailo_power_watts", "Measured if config says so", registry=registry)
        self._hot = Gauge("sparkd_hailo_hot", "Whether it is above its limit", registry=registry)

    def show(self, reading: Reading, heat: Heat) -> None:
        """Show a reading."""
        self._celsius.set(reading.celsius)
        self._hot.set(heat.hot)
        if reading.watts is not None:
            self._watts.set(reading.watts)


async def watch_over(ctx: Context[HailoInferenceConfig], runtimes: Runtimes, heat: Heat, troubles: Troubles) -> None:
    """Say what the models run on, then watch it. Raises DeviceLostError, or DeviceError when a start would do good."""
    device = runtimes.hailo
    for name, error in runtimes.on_cpu.items():
        remedy = getattr(error, "remedy", "") or "compile its model for this chip"
        troubles.say(f"model {name}", f"model {name} is on the CPU: {error}", remedy)
    if device is not None:
        _tell(ctx, device)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_lost, device)
            tasks.start_soon(_read, ctx, device, heat, troubles)
    elif runtimes.unused is not None:
        await _until_usable(ctx, runtimes.unused, troubles)
    else:
        ctx.log.info("runs on the CPU", why="no Hailo is there" if runtimes.choice == "auto" else "config says so")


def _tell(ctx: Context[HailoInferenceConfig], device: HailoDevice) -> None:
    said: dict[str, Any] = {"chip": device.architecture, "at": device.address, "versions": str(device.versions)}
    ctx.log.info("runs on a Hailo", **said)
    if device.versions.differ:
        ctx.log.warning("the Hailo's versions differ", **said, remedy="sparkctl doctor --hailo")


async def _until_lost(device: HailoDevice) -> None:
    lost, token = anyio.Event(), anyio.lowlevel.current_token()
    device.when_lost = partial(anyio.from_thread.run_sync, lost.set, token=token)
    if device.lost is None:
        await lost.wait()
    device.check()


async def _read(ctx: Context[HailoInferenceConfig], device: HailoDevice, heat: Heat, troubles: Troubles) -> None:
    gauges, silent = Gauges(ctx.metrics), 0
    while True:
        try:
            reading = await anyio.to_thread.run_sync(device.read)
        except DeviceLostError:
            return  # the other task tells
        except DeviceError as error:
            silent += 1
            ctx.log.warning("hailo-temperature-unread", reason=str(error), times=silent)
            if silent >= SILENT_READINGS:
                told = DeviceLostError(f"{error}, {silent} times in a row", remedy=error.remedy)
                await anyio.to_thread.run_sync(device.lose, told)
                return
        else:
            silent = 0
            _judge(troubles, heat, heat.takes(reading.celsius))
            gauges.show(reading, heat)
        await anyio.sleep(device.config.temperature_interval_s)


def _judge(troubles: Troubles, heat: Heat, changed: bool) -> None:  # noqa: FBT001 - of one caller
    if heat.hot and changed:
        reason = f"the Hailo has {heat.celsius:.0f} degrees, hot_c is {heat.config.hot_c:g}: frame rates are lowered"
        troubles.say("heat", reason, "give it a cooler and air; then it goes back by itself")
    elif changed:
        troubles.over("heat")


async def _until_usable(ctx: Context[HailoInferenceConfig], why: DeviceError, troubles: Troubles) -> None:
    """Say why the device is not used, and raise DeviceError once it seems to work: a new process then takes it."""
    from .device_hailo import HailoDevice  # noqa: PLC0415 - brings numpy, which probing must not pay for

    while True:
        troubles.say("device", f"on the CPU: {why}", why.remedy)
        await anyio.sleep(RETRY_S)
        if isinstance(why, DeviceLostError):  # the library hangs in this process
            raise why
        try:
            device = await anyio.to_thread.run_sync(partial(HailoDevice.open, ctx.config.hailo, root=Path("/")))
        except DeviceError as error:
            why = error
        else:
            await anyio.to_thread.run_sync(device.close)
            raise DeviceError("the Hailo can be used now: starting anew on it")
