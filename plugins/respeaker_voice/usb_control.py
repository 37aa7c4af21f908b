"""Control transfers to a microphone array on USB. The only file that knows pyusb; every function here blocks.

What libusb reports becomes a DeviceError with what to do about it. `Gone` is the one that a caller may act on: the
device must be looked for again.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Literal

from sparkd import DeviceError

VENDOR = 0x2886
PRODUCTS: dict[int, Literal["xvf3000", "xvf3800"]] = {0x0018: "xvf3000", 0x001A: "xvf3800"}
OUT, IN, REQUEST = 0x40, 0xC0, 0
"""Vendor requests to the device: no interface is claimed, and the sound goes on."""
TIMEOUT_MS = 500
RULE = "60-sparkd-respeaker.rules"
_ALLOW = (
    f"the udev rule {RULE} (make install brings it), usermod -aG plugdev for the service's user, and plug it in again"
)
_AGAIN = "unplug it and plug it in again"
_GONE = (errno.ENODEV, errno.ENOENT, errno.EIO, errno.ESHUTDOWN)


class Gone(DeviceError):  # noqa: N818 - what happened, as the caller sees it
    """The array is not there, or not any more."""


@dataclass(frozen=True, slots=True)
class Control:
    """An open array."""

    device: Any
    kind: Literal["xvf3000", "xvf3800"]

    def read(self, *, value: int, index: int, size: int) -> bytes:
        """Ask for *size* bytes. Raises DeviceError."""
        return bytes(self._transfer(IN, value, index, size))

    def write(self, *, value: int, index: int, data: bytes) -> None:
        """Send *data*. Raises DeviceError."""
        sent = self._transfer(OUT, value, index, data)
        if sent != len(data):
            raise DeviceError(f"the array took {sent} of {len(data)} bytes", remedy=_AGAIN)

    def close(self) -> None:
        """Let go of it."""
        import usb.util  # noqa: PLC0415 - only who has an array needs pyusb

        usb.util.dispose_resources(self.device)

    def _transfer(self, way: int, value: int, index: int, data: Any) -> Any:
        import usb.core  # noqa: PLC0415 - as above

        try:
            return self.device.ctrl_transfer(way, REQUEST, value, index, data, TIMEOUT_MS)
        except usb.core.USBTimeoutError as error:
            raise DeviceError(f"the array did not answer within {TIMEOUT_MS} ms", remedy=_AGAIN) from error
        except usb.core.USBError as error:
            raise _meant(error, f"value {value:#x}, index {index:#x}") from error


def open_control(backend: Any = None) -> Control:
    """Open the first array that is plugged in. Raises `Gone` if there is none, DeviceError if it cannot be used.

    *backend* is pyusb's; libusb unless a test brings one.
    """
    try:
        import usb.core  # noqa: PLC0415 - as above
    except ImportError as error:
        raise DeviceError("the package pyusb is not installed", remedy="pip install 'sparkd[voice]'") from error
    try:
        device = usb.core.find(idVendor=VENDOR, backend=backend, custom_match=lambda found: found.idProduct in PRODUCTS)
    except usb.core.NoBackendError as error:
        raise DeviceError("pyusb finds no libusb", remedy="apt install libusb-1.0-0") from error
    except usb.core.USBError as error:
        raise _meant(error, "looking for it") from error
    if device is None:
        raise Gone("no ReSpeaker on the USB", remedy=f"plug it in; lsusb -d {VENDOR:04x}:")
    control = Control(device, PRODUCTS[device.idProduct])
    _refuse_dfu(control)
    return control


def _refuse_dfu(control: Control) -> None:
    """A firmware upgrade that did not end leaves an array with one interface, which answers nothing else."""
    import usb.core  # noqa: PLC0415 - as above

    try:
        interfaces = control.device[0].bNumInterfaces
    except usb.core.USBError as error:
        raise _meant(error, "reading its descriptor") from error
    if interfaces == 1:
        text = "the array is in DFU mode: it waits for its firmware"
        raise DeviceError(text, remedy="unplug it and plug it in again; if it stays so, flash its firmware with dfu.py")


def _meant(error: Any, doing: str) -> DeviceError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeviceError("this user may not write to the array", remedy=_ALLOW)
    if error.errno in _GONE:
        return Gone(f"the array is gone: {error.strerror}", remedy="plug it in")
    if error.errno == errno.EPIPE:
        text = f"the array refused ({doing}): its firmware does not know that"
        return DeviceError(text, remedy="update its firmware, or leave that parameter alone")
    if error.errno == errno.EBUSY:
        return DeviceError("another program holds the array", remedy="end it: fuser -v /dev/bus/usb/*/*")
    return DeviceError(f"the array failed ({doing}): {error.strerror}", remedy=_AGAIN)
