"""The Raspberry Pi itself: its supply's voltage, what its rails draw, under-voltage and throttling.

It says nothing of the mains: a Pi cannot tell what feeds its plug. Under-voltage is kept as seen for as long as the
source is open, because driver and firmware both clear their own marks.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from sparkd import DeviceError, PowerReading

from . import pi_firmware
from .ranges import HOUR_S, check_range
from .source import Listener

MISSES = 3
MAX_BYTES = 65_536
ALARM = "in0_lcrit_alarm"
REMEDY = "run it on a Pi, with vcgencmd (apt install raspi-utils-core), in the group video"


def _sysfs() -> Path:
    return Path("/sys")


def _tree() -> Path:
    return Path("/proc/device-tree")


@dataclass(frozen=True, slots=True, kw_only=True)
class PiConfig:
    """The table `[plugins.power-monitor.pi.NAME]`."""

    vcgencmd: str = "vcgencmd"
    """The program, found in PATH or with its folder."""
    estimate_load: bool = True
    """Whether the draw of the rails stands for the board's load; what hangs on its 5 V is not in it."""
    interval_s: float = 2.0
    answer_limit_s: float = 3.0
    """Longer than this, and the program is killed."""
    sysfs: Path = field(default_factory=_sysfs)
    device_tree: Path = field(default_factory=_tree)

    def __post_init__(self) -> None:
        check_range("interval_s", self.interval_s, 0.2, HOUR_S)
        check_range("answer_limit_s", self.answer_limit_s, 0.1, 60)
        if not self.vcgencmd:
            raise ValueError("vcgencmd: the name of a program expected")


class PiSource:
    """Asks the firmware at an interval."""

    def __init__(self, config: PiConfig) -> None:
        self._config = config
        self._seen = 0
        """How often under-voltage began."""
        self._under = False

    async def watch(self, to: Listener) -> None:
        """Read until cancelled. Raises DeviceError if there is no firmware to ask, or it tells nothing any more."""
        bits = await self._ask("get_throttled")  # tells at once whether there is a firmware
        to.found(await anyio.to_thread.run_sync(who, self._config.device_tree))
        missed = 0
        while True:
            try:
                reading = await self._look(bits)
            except ValueError as error:
                missed += 1
                to.garbage(str(error))
                if missed >= MISSES:
                    raise DeviceError(f"the firmware cannot be understood: {error}", remedy=REMEDY) from None
            else:
                missed = 0
                to.reading(reading)
            await anyio.sleep(self._config.interval_s)
            bits = await self._ask("get_throttled")

    async def _look(self, said: str) -> PowerReading:
        bits = pi_firmware.throttled(said)
        alarm = await anyio.to_thread.run_sync(alarm_of, self._config.sysfs)
        under = bool(bits & pi_firmware.UNDER_VOLTAGE) or bool(alarm)
        self._seen += under and not self._under
        self._under = under
        volts, amps = await self._rails()
        watts = pi_firmware.board_watts(volts, amps) if self._config.estimate_load else None
        detail = {"under_voltage_seen": str(self._seen)}
        if watts is not None:
            detail["load_watts"] = "estimated from the rails, without what hangs on 5 V"
        return PowerReading(
            supply_volts=volts.get("EXT5V"), load_watts=watts, under_voltage=under, throttled=bits, detail=detail
        )

    async def _rails(self) -> tuple[dict[str, float], dict[str, float]]:
        try:
            said = await self._ask("pmic_read_adc")
        except DeviceError:  # before the Pi 5 there was none
            return {}, {}
        return pi_firmware.rails(said)

    async def _ask(self, *words: str) -> str:
        """Return what vcgencmd says. Raises DeviceError if it is not there, hangs or complains."""
        program = self._config.vcgencmd
        try:
            with anyio.fail_after(self._config.answer_limit_s):
                done = await _run([program, *words])
        except TimeoutError:
            raise DeviceError(f"{program} {' '.join(words)} hangs", remedy="look at dmesg; restart the Pi") from None
        except OSError as error:
            raise DeviceError(f"{program} cannot be run: {error.strerror}", remedy=REMEDY) from None
        said = done.stdout[:MAX_BYTES].decode(errors="replace")
        why = pi_firmware.failure(said) or (done.returncode and (done.stderr or done.stdout).decode(errors="replace"))
        if why:
            raise DeviceError(f"{program} {' '.join(words)}: {str(why).strip()[:200]}", remedy=REMEDY)
        return said


async def _run(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process(argv, check=False, stdin=subprocess.DEVNULL)


def alarm_of(sysfs: Path) -> bool | None:
    """Return whether the kernel's driver (hwmon `rpi_volt`) says under-voltage; None if there is no such driver."""
    for name in (sysfs / "class/hwmon").glob("hwmon*/name"):
        try:
            if name.read_text(encoding="ascii").strip() == "rpi_volt":
                return (name.parent / ALARM).read_text(encoding="ascii").strip() == "1"
        except (OSError, UnicodeDecodeError):
            continue
    return None


def who(tree: Path) -> str:
    """Return the model, and what its supply agreed to give, as far as the device tree tells."""
    try:
        model = (tree / "model").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        model = "a Pi that does not tell its model"
    try:
        milliamps = int.from_bytes((tree / "chosen/power/max_current").read_bytes()[:4], "big")
    except OSError:
        return model
    return f"{model}, supply of {milliamps / 1000:g} A"
