"""What the Pi's firmware says of its supply: `vcgencmd` answers, and what they mean. Pure."""

from __future__ import annotations

import math
import re

ADC = re.compile(r"\s*(\w+?)_([AV]) (?:current|volt)\((\d+)\)=(\S+?)[AV]\s*")
THROTTLED = re.compile(r"throttled=(0x[0-9a-fA-F]{1,8})\s*")
FAILED = re.compile(r'error=(\d+) error_msg="([^"]*)"')
FIT_FACTOR, FIT_OFFSET_W = 1.1451, 0.5879
"""Of the board's draw over the sum of its rails: a straight line that was fitted on a Pi 5 with a meter at its plug
(github.com/jfikar/RPi5-power). It cannot know what USB devices, HATs, NVMe and the fan draw from 5 V."""
RAILS = (
    "3V7_WL_SW",
    "3V3_SYS",
    "1V8_SYS",
    "DDR_VDD2",
    "DDR_VDDQ",
    "1V1_SYS",
    "0V8_SW",
    "VDD_CORE",
    "3V3_DAC",
    "3V3_ADC",
    "0V8_AON",
    "HDMI",
)
UNDER_VOLTAGE, HAPPENED = 0x1, 0x10000
NEGOTIATED = ("max_current", "usb_max_current_enable")


def failure(said: str) -> str:
    """Return what *said* complains of; vcgencmd may do so and still end with 0. Nothing if it does not."""
    found = FAILED.search(said)
    return f"{found[2]} (error {found[1]})" if found else ""


def throttled(said: str) -> int:
    """Return the bits that `get_throttled` gave. Raises ValueError."""
    found = THROTTLED.fullmatch(said)
    if not found:
        raise ValueError(f"get_throttled: throttled=0x... expected, got {said[:60]!r}")
    return int(found[1], 16)


def rails(said: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return volts and amperes by rail, as `pmic_read_adc` gave them. Raises ValueError for a line that is none."""
    volts: dict[str, float] = {}
    amps: dict[str, float] = {}
    for line in said.splitlines():
        if not line.strip():
            continue
        found = ADC.fullmatch(line)
        if not found:
            raise ValueError(f"pmic_read_adc: NAME_V volt(N)=xV expected, got {line[:60]!r}")
        value = float(found[4])
        if not math.isfinite(value):
            raise ValueError(f"pmic_read_adc: a number expected, got {line[:60]!r}")
        (volts if found[2] == "V" else amps)[found[1]] = value
    return volts, amps


def board_watts(volts: dict[str, float], amps: dict[str, float]) -> float | None:
    """Return what the board draws, estimated from its rails; None unless all of them are there."""
    if any(name not in volts or name not in amps for name in RAILS):
        return None
    return sum(volts[name] * amps[name] for name in RAILS) * FIT_FACTOR + FIT_OFFSET_W
