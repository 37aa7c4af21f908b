"""A ReSpeaker on USB as pyusb sees it: a backend with the array's registers behind it, and all that can go wrong.

It stands below pyusb, so what is tested is the shipped code with the real pyusb. The registers are listed here by page
and offset, on their own: a wrong number in the driver's table meets a stall, as it would at the array.
"""
# ruff: noqa: ARG002, N803, PLR0917 - pyusb's own signatures

from __future__ import annotations

import array
import errno
import math
import struct
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

XVF3000, XVF3800 = 0x0018, 0x001A
INTEGERS = {
    18: (7, 25, 27, 28, 31),
    19: (0, 5, 6, 8, 11, 14, 18, 20, 22, 23, 24, 29, 32, 33, 34),
    21: (0,),
}
FLOATS = {18: (19, 26, 30), 19: (1, 2, 3, 4, 9, 10, 12, 13, 15, 16, 17, 35, 36, 37, 38, 39)}
MEASURED = {(18, 25), (18, 26), (18, 31), (19, 22), (19, 23), (19, 24), (19, 32), (21, 0)}
RING, RING_SIZES = 0x1C, {0: 1, 1: 4, 2: 1, 3: 1, 4: 1, 5: 1, 6: 48, 0x20: 1, 0x21: 8, 0x22: 1, 0x23: 1}
SLOW_BUSY = 64


@dataclass(frozen=True, slots=True)
class Transfer:
    """One control transfer, as it was on the wire."""

    request_type: int
    request: int
    value: int
    index: int
    data: bytes
    """What was sent, or answered."""
    timeout_ms: int


@dataclass
class FakeArray(usb.backend.IBackend):  # type: ignore[misc] # pyusb has no types
    """An array on a bus of its own; change its fields to plug it in and out and to break it."""

    product: int = XVF3000
    plugged: bool = True
    interfaces: int = 5
    address: int = 4
    firmware: int = 3
    registers: dict[tuple[int, int], float] = field(default_factory=dict)
    settings: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Of the XVF3800: what was written last to (resource, command)."""
    faults: list[int | None] = field(default_factory=list)
    """What the next transfers come to: an errno each, None for none."""
    busy: int = 0
    """How many reads of an XVF3800 are put off."""
    short: int = 0
    """How many bytes each answer lacks."""
    delay_s: float = 0.0
    wire: list[Transfer] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    def __post_init__(self) -> None:
        """Fill the registers: each has a value of its own."""
        super().__init__()
        for kinds, value in ((INTEGERS, 1), (FLOATS, 0.5)):
            for page, offsets in kinds.items():
                for offset in offsets:
                    self.registers.setdefault((page, offset), value)

    # What pyusb calls

    def enumerate_devices(self) -> Any:
        """Return the array, if it is plugged in."""
        return iter([self.address] if self.plugged else [])

    def get_device_descriptor(self, dev: int) -> Any:
        """Return who it is."""
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=0x200, bDeviceClass=0xEF, bDeviceSubClass=2, bDeviceProtocol=1,
            bMaxPacketSize0=64, idVendor=0x2886, idProduct=self.product, bcdDevice=0x300, iManufacturer=1, iProduct=2,
            iSerialNumber=0, bNumConfigurations=1, bus=1, address=dev, port_number=1, port_numbers=(1,), speed=2,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: int, config: int) -> Any:
        """Return how many interfaces it has; one in DFU mode."""
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=9, bNumInterfaces=self.interfaces, bConfigurationValue=1,
            iConfiguration=0, bmAttributes=0x80, bMaxPower=250, extra_descriptors=[],
        )  # fmt: skip

    def open_device(self, dev: int) -> int:
        """Open it. Raises USBError if it is gone, or has another address by now."""
        self._fail_if_gone(dev)
        self.opened += 1
        return dev

    def close_device(self, dev_handle: int) -> None:
        """Close it."""
        self.closed += 1

    def ctrl_transfer(
        self,
        dev_handle: int,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: Any,
        timeout: int,
    ) -> int:
        """Do what the array would do."""
        time.sleep(self.delay_s)  # noqa: TID251 - transfers are made in threads
        self._fail_if_gone(dev_handle)
        fault = self.faults.pop(0) if self.faults else None
        if fault == errno.ETIMEDOUT:
            raise usb.core.USBTimeoutError("Operation timed out", -7, fault)
        if fault is not None:
            raise _failure(fault)
        if bmRequestType == 0xC0:  # noqa: PLR2004 - a vendor's question to the device
            answer = self._answer(wValue, wIndex, len(data))[: len(data)]
            answer = answer[: len(answer) - self.short]
            data[: len(answer)] = array.array("B", answer)
            self.wire.append(Transfer(bmRequestType, bRequest, wValue, wIndex, answer, timeout))
            return len(answer)
        sent = bytes(data)
        self.wire.append(Transfer(bmRequestType, bRequest, wValue, wIndex, sent, timeout))
        self._take(bmRequestType, wValue, wIndex, sent)
        return len(sent)

    # What the array does

    def _fail_if_gone(self, address: int) -> None:
        if not self.plugged or address != self.address:
            raise _failure(errno.ENODEV)

    def _answer(self, value: int, index: int, size: int) -> bytes:
        if self.product == XVF3800:
            return self._answer_3800(value, index, size)
        if (value, index) == (0x80, 0) and size == 1:
            return bytes([self.firmware])
        offset, whole = value & 0x3F, bool(value & 0x40)
        kinds = INTEGERS if whole else FLOATS
        if not value & 0x80 or offset not in kinds.get(index, ()):
            raise _failure(errno.EPIPE)
        held = self.registers[index, offset]
        if whole:
            return struct.pack("<ii", int(held), 0)
        mantissa, power = math.frexp(held)
        return struct.pack("<ii", round(mantissa * (1 << 30)), power - 30)

    def _answer_3800(self, value: int, index: int, size: int) -> bytes:
        if self.busy:
            self.busy -= 1
            return bytes([SLOW_BUSY]) + bytes(size - 1)
        known = {(48, 0): bytes([2, 1, 0]), (20, 18): self.settings.get((20, 18), struct.pack("<2H", 90, 1))}
        if (index, value & 0x7F) not in known:
            raise _failure(errno.EPIPE)
        return b"\0" + known[index, value & 0x7F]

    def _take(self, request_type: int, value: int, index: int, sent: bytes) -> None:
        if request_type != 0x40:  # noqa: PLR2004 - a vendor's order to the device
            raise _failure(errno.EPIPE)
        if self.product == XVF3800:
            self.settings[index, value] = sent
        elif index == RING:
            if len(sent) != RING_SIZES.get(value):
                raise _failure(errno.EPIPE)
            self.settings[index, value] = sent
        else:
            self._set(index, sent)

    def _set(self, page: int, sent: bytes) -> None:
        if len(sent) != 12:  # noqa: PLR2004 - three numbers of four bytes
            raise _failure(errno.EPIPE)
        offset, _, whole = struct.unpack("<iii", sent)
        kinds = INTEGERS if whole else FLOATS
        if offset not in kinds.get(page, ()) or (page, offset) in MEASURED:
            raise _failure(errno.EPIPE)
        self.registers[page, offset] = struct.unpack_from("<i" if whole else "<f", sent, 4)[0]


def _failure(number: int) -> usb.core.USBError:
    texts = {errno.ENODEV: "No such device (it may have been disconnected)", errno.EPIPE: "Pipe error"}
    texts |= {errno.EACCES: "Access denied (insufficient permissions)", errno.EBUSY: "Resource busy"}
    return usb.core.USBError(texts.get(number, "Input/Output Error"), None, number)
