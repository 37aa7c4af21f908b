"""Pins of UPS boards, by levels beneath gpiod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkd import DeviceError
from sparkd.testing.gpio import Pins, installed
from sparkd_plugins.power_monitor import gpio_lines
from sparkd_plugins.power_monitor.source_gpio import GpioConfig, GpioSource
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pins]:
    """Three chips; the Pi 5's is not the first, as since kernel 6.6.45 it may be."""
    monkeypatch.setattr(gpio_lines, "DEV", tmp_path)
    labels = {}
    for number, label in ((0, "brcmvirt-gpio"), (4, "pinctrl-rp1"), (10, "gpio-brcmstb@107d508500")):
        (tmp_path / f"gpiochip{number}").touch()
        labels[str(tmp_path / f"gpiochip{number}")] = label
    with installed(Pins(labels)) as made:
        yield made
        assert not made.requests


def source(board: str, **keys: Any) -> GpioSource:
    return GpioSource(GpioConfig(board=board, **{"interval_s": 5.0, **keys}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("board", "keys", "pin", "high_is_mains"),
    [
        ("x120x", {}, 6, True),
        ("x728", {}, 6, False),
        ("pipower", {}, 17, True),
        ("custom", {"pin": 21, "lost_when": "high"}, 21, False),
        ("custom", {"pin": 22}, 22, True),
    ],
)
async def test_each_boards_pin_means_what_its_maker_says(
    pins: Pins, board: str, keys: dict[str, Any], pin: int, *, high_is_mains: bool
) -> None:
    pins.levels[pin] = high_is_mains
    async with watching(source(board, **keys)) as heard:
        await heard.until(lambda seen: seen.readings)
        assert heard.last.mains is True
        pins.set(pin, high=not high_is_mains)
        await heard.until(lambda seen: seen.last.mains is False, limit_s=1)  # by the edge: its interval is 5 s
        await heard.until(lambda seen: [one.mains for one in seen.readings[-2:]] == [False, False], limit_s=1)
    assert pins.asked["path"].endswith("gpiochip4")
    assert pins.asked["settings"].debounce_period.total_seconds() == pytest.approx(0.02)


async def test_the_level_is_said_again_without_a_change(pins: Pins) -> None:
    pins.levels[6] = True
    async with watching(source("x120x", interval_s=0.05)) as heard:
        await heard.until(lambda seen: len(seen.readings) >= 4)
    assert all(one.mains for one in heard.readings)


async def test_a_low_battery_counts_without_the_mains_only(pins: Pins) -> None:
    pins.levels |= {17: True, 27: True}
    async with watching(source("pipower")) as heard:
        await heard.until(lambda seen: seen.readings)
        assert heard.last.battery_low is False
        pins.set(17, high=False)
        await heard.until(lambda seen: seen.last.battery_low)


async def test_what_is_not_there_taken_or_gone_is_named(pins: Pins) -> None:
    with pytest.raises(DeviceError, match="no GPIO chip is called 'pinctrl-bcm2711'") as lost:
        await source("x120x", chip="pinctrl-bcm2711").watch(Heard())
    assert "pinctrl-rp1" in str(lost.value)
    pins.busy = {6}
    with pytest.raises(DeviceError, match="cannot be had: Device or resource busy"):
        await source("x728").watch(Heard())
    pins.busy, pins.dead = set(), True
    with pytest.raises(DeviceError, match="pin 6 cannot be read"):
        await source("x728").watch(Heard())


@pytest.mark.parametrize(
    "keys", [{"board": "custom"}, {"board": "x728", "pin": 6}, {"board": "x120x", "debounce_ms": -1.0}]
)
def test_a_pin_must_be_named_where_no_board_names_it(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"pin|debounce_ms"):
        GpioConfig(**keys)
