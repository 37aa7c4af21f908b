"""VE.Direct over a real pseudo-terminal, spoken as devices do, and damaged as lines are."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkd import DeviceError
from sparkd_plugins.power_monitor import source_vedirect, vedirect_wire
from sparkd_plugins.power_monitor.source_vedirect import VedirectConfig, VedirectSource
from sparkd_plugins.power_monitor.vedirect_wire import Blocks, meaning
from tests.plugins.power_listener import Heard, watching

pytestmark = pytest.mark.anyio
MONITOR = {
    "PID": "0x203",
    "V": "12800",
    "I": "-1500",
    "P": "-19",
    "CE": "-6000",
    "SOC": "876",
    "TTG": "720",
    "BMV": "702",
}
CHARGER = {
    "PID": "0xA053",
    "SER#": "HQ1",
    "V": "13790",
    "I": "2000",
    "VPV": "32000",
    "PPV": "30",
    "CS": "3",
    "IL": "500",
}
HISTORY = {"H1": "-55555", "H2": "0", "H19": "12"}


def block(fields: dict[str, str]) -> bytes:
    text = "".join(f"\r\n{name}\t{value}" for name, value in fields.items()).encode() + b"\r\nChecksum\t"
    return text + bytes([-sum(text) % 256])


@contextmanager
def line() -> Iterator[tuple[int, Path]]:
    ours, its = os.openpty()
    tty.setraw(its)
    try:
        yield ours, Path(os.ttyname(its))
    finally:
        for end in (ours, its):
            try:
                os.close(end)
            except OSError:
                continue


async def test_a_monitor_on_a_line() -> None:
    with line() as (ours, device):
        async with watching(VedirectSource(VedirectConfig(device=device, capacity_wh=1280))) as heard:
            os.write(ours, block(MONITOR)[20:] + block(HISTORY) + block(MONITOR))
            await heard.until(lambda seen: seen.readings)
            assert heard.whats == ["Victron battery monitor 702"]
            assert heard.last.battery_volts == pytest.approx(12.8)
            assert heard.last.charge_percent == pytest.approx(87.6)
            assert (heard.last.battery_watts, heard.last.time_to_empty_s) == (-19, 43_200)
            assert (heard.last.mains, heard.last.capacity_wh) == (None, 1280)

            os.write(ours, b":A0002000148\n" + block(MONITOR | {"SOC": "700", "TTG": "-1"}))
            await heard.until(lambda seen: seen.last.charge_percent == 70)
            assert heard.last.time_to_empty_s is None
            damaged = bytearray(block(MONITOR | {"SOC": "1"}))
            damaged[25] ^= 4
            os.write(ours, bytes(damaged) + block(MONITOR | {"SOC": "690"}))
            await heard.until(lambda seen: seen.last.charge_percent == 69)
            assert heard.bad[-1].startswith("1 damaged blocks")
        speeds = termios.tcgetattr(ours)[4:6]
        assert speeds == [termios.B19200, termios.B19200]


def test_a_charger_tells_of_its_panels_and_its_load() -> None:
    reading, doubts = meaning(CHARGER)

    assert not doubts
    assert (reading.solar_watts, reading.load_amps, reading.charge_percent) == (30, 0.5, None)
    assert reading.battery_watts == pytest.approx(27.58)
    assert reading.load_watts == pytest.approx(6.895)
    assert reading.detail["state"] == "bulk"


async def test_a_line_that_is_pulled_or_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="No such file"):
        await VedirectSource(VedirectConfig(device=tmp_path / "none")).watch(Heard())
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DeviceError, match="no serial line"):
        await VedirectSource(VedirectConfig(device=file)).watch(Heard())
    with line() as (ours, device):
        heard = Heard()
        heard.garbage = lambda reason: os.close(ours)  # type: ignore[method-assign]
        os.write(ours, block(MONITOR)[:-1] + b"?")
        with pytest.raises(DeviceError, match="is gone"):
            await VedirectSource(VedirectConfig(device=device)).watch(heard)


async def test_silence_and_another_protocol_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_vedirect, "QUIET_S", 0.05)
    with line() as (_, device), pytest.raises(DeviceError, match="was silent for"):
        await VedirectSource(VedirectConfig(device=device)).watch(Heard())
    monkeypatch.setattr(source_vedirect, "STRANGE_BYTES", 1000)
    with line() as (ours, device):
        os.write(ours, b"$GPGGA,123519,4807.038,N\r\n" * 60)
        with pytest.raises(DeviceError, match="does not speak VE"):
            await VedirectSource(VedirectConfig(device=device)).watch(Heard())


@pytest.mark.parametrize("said", ["", "abc", "1.5", "0x1", "nan", "1e3", "9" * 400, "9" * 5000])
def test_what_is_no_number_is_named_and_left_out(said: str) -> None:
    reading, doubts = meaning(MONITOR | {"SOC": said})

    assert reading.charge_percent is None
    assert doubts[0].startswith("SOC: a whole number expected")
    assert meaning(MONITOR | {"SOC": "---"})[1] == []


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_any_bytes_in_any_pieces(pieces: list[bytes]) -> None:
    blocks = Blocks()
    for piece in pieces:
        for fields in blocks.feed(piece):
            meaning(fields)
            vedirect_wire.who(fields)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(1, 255), st.integers(1, 40))
def test_a_flipped_byte_never_gets_through_and_the_next_block_does(noise: bytes, at: int, flip: int, size: int) -> None:
    good, blocks = block(MONITOR), Blocks()
    bad = bytearray(good)
    bad[at % len(bad)] ^= flip
    data = bytes(byte for byte in noise if byte not in (0x3A, 0x09)) + bytes(bad) + b"\n" + good + good
    found = []
    for begin in range(0, len(data), size):
        found += blocks.feed(data[begin : begin + size])

    assert all(one == MONITOR for one in found)
    assert len(found) >= 1


def test_an_endless_block_is_dropped() -> None:
    blocks = Blocks()
    assert blocks.feed(b"\r\nV\t1" * 10_000) == []
    assert blocks.damaged > 10
    assert blocks.feed(b"\r\nChecksum\tx" + block(MONITOR)) in ([], [MONITOR])
    assert blocks.feed(block(MONITOR)) == [MONITOR]
