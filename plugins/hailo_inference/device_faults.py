"""What HailoRT's errors mean to an operator: from its exceptions to a sentence and a remedy. Knows no SDK.

The library tells its status by class, by number in the text, or by a raw exception whose only argument is the number;
which of them depends on the call. Numbers are those of `hailort.h` 4.23.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparkd import DeviceError

from .device_lost import DeviceLostError

RAW = "HailoRTStatusException"
_NUMBER = re.compile(r"libhailort failed with error: (\d+)")
OF_CLASS = {
    "HailoRTInvalidArgumentException": 2,
    "HailoRTTimeout": 4,
    "HailoRTInvalidOperationException": 6,
    "HailoRTFirmwareControlFailedException": 18,
    "HailoRTEthException": 19,
    "HailoRTInvalidFrameException": 25,
    "HailoRTInvalidHEFException": 26,
    "HailoRTDriverOperationFailedException": 36,
    "HailoRTPCIeDriverException": 36,
    "HailoRTUnsupportedOpcodeException": 48,
    "HailoRTNotFoundException": 61,
    "HailoCommunicationClosedException": 62,
    "HailoRTStreamAborted": 63,
    "HailoRTNetworkGroupNotActivatedException": 69,
    "HailoRTHEFNotCompatibleWithDevice": 93,
}
TIMEOUT, UNSUPPORTED_OPCODE, INVALID_HEF, NOT_COMPATIBLE = 4, 48, 26, 93
BAD_MODEL = {INVALID_HEF, NOT_COMPATIBLE}
"""The model file's fault, not the device's."""

_AGREE = "bring driver, firmware and library to one version: apt full-upgrade, then restart; sparkctl doctor --hailo"
_KERNEL = "journalctl -k -g hailo; restart the machine if it stays so"
FAULTS: dict[int, tuple[str, str]] = {
    TIMEOUT: ("it did not answer in time", _KERNEL),
    16: ("the firmware's version is not the library's", _AGREE),
    18: ("its firmware refused a command", _KERNEL),
    INVALID_HEF: ("the model file is not a HEF that this library can read", "compile it with a compiler of line 3.x"),
    36: ("its driver failed", _KERNEL),
    UNSUPPORTED_OPCODE: ("its firmware does not know a command", "this board may not have what was asked for"),
    62: ("the connection to it was closed", _KERNEL),
    63: ("it gave up its work", _KERNEL),
    64: ("its driver is not installed", "apt install dkms hailo-all; modprobe hailo_pci"),
    69: ("its scheduler is off", "report this: sparkd turns it on"),
    71: ("its memory is full", "load fewer or smaller models"),
    73: ("another process has it", "stop the other one: sudo lsof /dev/hailo0; or let it use hailort.service"),
    74: ("no device is free", "stop what uses it: sudo lsof /dev/hailo0; is it in `lspci -d 1e60:`?"),
    76: ("the driver's version is not the library's", _AGREE),
    77: ("hailort.service does not answer", "systemctl status hailort.service"),
    78: ("the version of hailort.service is not the library's", _AGREE),
    81: ("the kernel has no contiguous memory left for it", "restart the machine, or give it more: cma=256M"),
    82: ("its queue is full", "call again in a second"),
    87: ("its driver did not answer in time", _KERNEL),
    NOT_COMPATIBLE: (
        "the model was compiled for a Hailo-8, and this is a Hailo-8L",
        "use a HEF that was compiled for hailo8l; it runs on both",
    ),
}


@dataclass(frozen=True, slots=True)
class Versions:
    """What the three halves say they are; nothing for what is not known."""

    driver: str = ""
    firmware: str = ""
    library: str = ""

    def __str__(self) -> str:
        told = {"driver": self.driver, "firmware": self.firmware, "library": self.library}
        return ", ".join(f"{name} {version or 'unknown'}" for name, version in told.items())

    @property
    def differ(self) -> bool:
        """Whether those that are known are not the same."""
        return len({version for version in (self.driver, self.firmware, self.library) if version}) > 1


def code_of(error: BaseException) -> int | None:
    """Return the status that *error* stands for; None if it is not one of the library's."""
    for one in (error, error.__cause__):
        if one is None:
            continue
        if type(one).__name__ == RAW and one.args:
            return int(one.args[0])
        if type(one).__name__ in OF_CLASS:
            return OF_CLASS[type(one).__name__]
        match = _NUMBER.search(str(one))
        if match:
            return int(match[1])
    return None


def explain(
    error: BaseException, *, doing: str, versions: Versions | None = None, lost: bool = False
) -> DeviceError | DeviceLostError:
    """Return what *error*, which came while *doing* something, means. Already a DeviceError, it stays what it is."""
    if isinstance(error, DeviceLostError) or (isinstance(error, DeviceError) and not lost):
        return error
    code = code_of(error)
    said, remedy = FAULTS.get(code or 0, (f"{type(error).__name__}: {error}".rstrip(": "), _KERNEL))
    told = f" ({versions})" if versions is not None and remedy == _AGREE else ""
    status = f", status {code}" if code is not None else ""
    kind = DeviceLostError if lost else DeviceError
    return kind(f"Hailo: {doing}: {said}{told}{status}", remedy=remedy)
