"""The array on USB: what is on the wire for each parameter, and what each failure comes to. pyusb is real."""

from __future__ import annotations

import errno
import struct
import time

import anyio
import pytest
import usb.core

from sparkd import DeviceError
from sparkd.testing.respeaker import FLOATS, INTEGERS, MEASURED, XVF3800, FakeArray, Transfer
from sparkd_plugins.respeaker_voice import usb_control
from sparkd_plugins.respeaker_voice.board import Board, Heard
from sparkd_plugins.respeaker_voice.ring import Ring, towards
from sparkd_plugins.respeaker_voice.xvf3000 import PARAMETERS, Parameter
from sparkd_plugins.respeaker_voice.xvf3800 import ATTEMPTS

pytestmark = pytest.mark.anyio
EACH = [pytest.param(one, id=name) for name, one in PARAMETERS.items()]


@pytest.fixture
def fake() -> FakeArray:
    return FakeArray()


def test_the_table_has_what_the_array_has() -> None:
    registers = {(page, offset) for kinds in (INTEGERS, FLOATS) for page, every in kinds.items() for offset in every}
    assert {(one.page, one.offset) for one in PARAMETERS.values()} == registers
    assert {(one.page, one.offset) for one in PARAMETERS.values() if not one.writable} == MEASURED
    assert all(one.kind is int for one in PARAMETERS.values() if one.offset in INTEGERS.get(one.page, ()))
    assert len(PARAMETERS) == 40


@pytest.mark.parametrize("one", EACH)
async def test_each_parameter_is_read(fake: FakeArray, one: Parameter) -> None:
    value = one.high if one.kind is int else (one.low + one.high) / 3
    fake.registers[one.page, one.offset] = value
    assert await Board(fake).read(one.name) == pytest.approx(value, rel=1e-6)
    sent = fake.wire[-1]
    value_wanted = 0x80 | one.offset | (0x40 if one.kind is int else 0)
    assert (sent.request_type, sent.request, sent.value, sent.index) == (0xC0, 0, value_wanted, one.page)
    assert len(sent.data) == 8
    assert sent.timeout_ms <= 1000


@pytest.mark.parametrize("one", EACH)
async def test_each_parameter_is_written_within_its_range_or_not_at_all(fake: FakeArray, one: Parameter) -> None:
    board = Board(fake)
    if not one.writable:
        with pytest.raises(ValueError, match="only be read"):
            await board.write(one.name, one.low)
        assert fake.wire == []
        return
    for value in (one.low, one.high):
        await board.write(one.name, value)
        assert fake.registers[one.page, one.offset] == pytest.approx(value, rel=1e-6)
        body = struct.pack("<iii" if one.kind is int else "<ifi", one.offset, one.kind(value), one.kind is int)
        assert fake.wire[-1] == Transfer(0x40, 0, 0, one.page, body, usb_control.TIMEOUT_MS)
    count = len(fake.wire)
    for value in (one.low - 1, one.high * 1.01 + 1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected"):
            await board.write(one.name, value)
    assert len(fake.wire) == count


async def test_some_bytes_are_those_of_the_makers_script(fake: FakeArray) -> None:
    board = Board(fake)
    await board.write("AGCONOFF", 0)
    await board.write("AGCMAXGAIN", 31.5)
    await board.read("DOAANGLE")
    await board.read("RT60")
    wire = [(sent.value, sent.index, sent.data.hex()) for sent in fake.wire]
    assert wire[0] == (0, 19, "000000000000000001000000")
    assert wire[1] == (0, 19, "010000000000fc4100000000")
    assert wire[2] == (0xC0, 21, "0100000000000000")
    assert wire[3] == (0x9A, 18, "00000020e2ffffff")


async def test_half_a_number_and_an_unknown_name_are_refused_before_the_wire(fake: FakeArray) -> None:
    with pytest.raises(ValueError, match="whole"):
        await Board(fake).write("HPFONOFF", 1.5)
    with pytest.raises(ValueError, match="no parameter 'VOLUME'"):
        await Board(fake).read("VOLUME")
    assert fake.wire == []


async def test_it_says_what_it_is_and_what_it_hears(fake: FakeArray) -> None:
    board = Board(fake)
    assert (await board.kind(), await board.firmware()) == ("xvf3000", "3")
    fake.registers |= {(21, 0): 271, (19, 32): 0, (19, 22): 0}
    assert await board.heard() == Heard(271, speech=False)
    fake.registers[19, 22] = 1
    assert await board.heard() == Heard(271, speech=True)


@pytest.mark.parametrize(
    ("fault", "text", "remedy"),
    [
        (errno.EACCES, "may not write", "udev rule"),
        (errno.EPIPE, "refused", "firmware"),
        (errno.ETIMEDOUT, "did not answer", "unplug"),
        (errno.EBUSY, "another program", "fuser"),
        (errno.EOVERFLOW, "failed", "unplug"),
    ],
)
async def test_each_failure_has_its_remedy_and_does_not_last(
    fake: FakeArray, fault: int, text: str, remedy: str
) -> None:
    board = Board(fake)
    fake.faults = [fault]
    with pytest.raises(DeviceError, match=text) as caught:
        await board.read("RT60")
    assert remedy in caught.value.remedy
    assert await board.read("RT60") == pytest.approx(0.5)


async def test_an_array_that_was_replugged_is_found_under_its_new_number(fake: FakeArray) -> None:
    board = Board(fake)
    await board.read("RT60")
    fake.address = 9
    assert await board.read("RT60") == pytest.approx(0.5)
    fake.plugged = False
    with pytest.raises(DeviceError) as caught:
        await board.read("RT60")
    assert "plug it in" in caught.value.remedy
    fake.plugged, fake.address = True, 10
    assert await board.read("RT60") == pytest.approx(0.5)
    await board.close()
    assert fake.opened == fake.closed == 3


@pytest.mark.parametrize("short", [1, 8])
async def test_an_answer_that_is_cut_off_is_none(fake: FakeArray, short: int) -> None:
    fake.short = short
    with pytest.raises(DeviceError, match=f"{8 - short} bytes"):
        await Board(fake).read("RT60")


async def test_an_array_that_waits_for_firmware_says_so(fake: FakeArray) -> None:
    fake.interfaces = 1
    with pytest.raises(DeviceError, match="DFU mode"):
        await Board(fake).firmware()
    assert fake.wire == []


async def test_without_libusb_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> None:
        raise usb.core.NoBackendError("No backend available")

    monkeypatch.setattr(usb.core, "find", none)
    with pytest.raises(DeviceError) as caught:
        await Board().kind()
    assert "libusb-1.0-0" in caught.value.remedy


async def test_a_slow_array_does_not_hold_the_loop(fake: FakeArray) -> None:
    fake.delay_s = 0.3
    beats = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Board(fake).read, "RT60")
        begin = time.monotonic()
        while time.monotonic() - begin < 0.25:
            await anyio.sleep(0.01)
            beats += 1
    assert beats > 5


# The ring


@pytest.mark.parametrize(("state", "command"), [("listen", 2), ("speak", 3), ("think", 4)])
async def test_the_ring_plays_the_arrays_own_patterns(fake: FakeArray, state: str, command: int) -> None:
    await Ring(Board(fake)).show(state)  # type: ignore[arg-type] # one of the literals
    assert fake.wire == [Transfer(0x40, 0, command, 0x1C, b"\0", usb_control.TIMEOUT_MS)]


async def test_the_ring_shows_errors_and_darkness(fake: FakeArray) -> None:
    ring = Ring(Board(fake))
    await ring.show("error")
    assert fake.settings[0x1C, 6] == bytes([96, 0, 0, 0]) * 12
    for state in ("idle", "off"):
        await ring.show(state)
        assert fake.settings[0x1C, 6] == bytes(48)
    assert len(fake.wire) == 3


async def test_the_ring_points_to_who_is_heard_and_says_it_once(fake: FakeArray) -> None:
    ring = Ring(Board(fake))
    await ring.show("listen", degrees=91.0)
    await ring.show("listen", degrees=88.0)
    assert len(fake.wire) == 1
    colours = [fake.settings[0x1C, 6][4 * led : 4 * led + 4] for led in range(12)]
    assert max(range(12), key=lambda led: sum(colours[led])) == 3
    assert [towards(degrees) for degrees in (0, 14, 16, 270, 344, 346, 359.9)] == [0, 0, 1, 9, 11, 0, 0]


async def test_a_ring_that_is_not_there_is_no_error_and_comes_back(fake: FakeArray) -> None:
    await Ring(None).show("listen")
    fake.plugged = False
    ring = Ring(Board(fake))
    await ring.show("listen")
    assert "no ReSpeaker" in str(ring.trouble)
    fake.plugged = True
    await ring.show("listen")
    assert ring.trouble is None
    assert fake.wire[-1].value == 2


# The XVF3800


async def test_the_newer_array_tells_its_direction_and_shows_its_ring() -> None:
    fake = FakeArray(product=XVF3800, busy=3)
    board = Board(fake)
    assert (await board.kind(), await board.firmware()) == ("xvf3800", "2.1.0")
    assert len([sent for sent in fake.wire if sent.data[:1] == b"\x40"]) == 3
    assert await board.heard() == Heard(90, speech=True)
    ring = Ring(board)
    await ring.show("listen", degrees=0)
    assert struct.unpack("<12I", fake.settings[20, 19])[0] == 0x40A0FF
    assert fake.settings[20, 12] == b"\x05"
    await ring.show("think")
    assert fake.settings[20, 12] == b"\x01"
    with pytest.raises(DeviceError, match="an xvf3800"):
        await board.read("RT60")
    fake.busy = ATTEMPTS + 1
    with pytest.raises(DeviceError, match="busy"):
        await board.heard()
