"""What a service needs before it starts, as its manifest and the config write it. Layer: values.

service:NAME            another service of this node runs
interface:NAME          a service of this node serves the interface, and runs
path:/ABS               the path is there
device:/dev/NAME        the device file is there
device:usb:VVVV:PPPP    a USB device of this vendor and product is plugged in (four hex digits each)
mount:/ABS              something is mounted there; with :rw behind it, writable
network                 there is a route out of this machine
network:NAME            the network interface is up
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sparkd.service import NAME

FORMS = (
    "service:NAME",
    "interface:NAME",
    "path:/PATH",
    "device:/dev/NAME",
    "device:usb:2886:0018",
    "mount:/PATH",
    "mount:/PATH:rw",
    "network",
    "network:NAME",
)
_USB = re.compile(r"usb:([0-9a-f]{4}):([0-9a-f]{4})")
_LINK = re.compile(r"[^\s/:\0]{1,15}")
"""A network interface's name has up to 15 bytes, no blank, no slash (dev_valid_name in net/core/dev.c)."""


class NeedKind(StrEnum):
    """What sort of thing is needed."""

    SERVICE = "service"
    INTERFACE = "interface"
    PATH = "path"
    DEVICE = "device"
    USB = "usb"
    MOUNT = "mount"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that is needed."""

    kind: NeedKind
    what: str
    """The name, the path, `vendor:product`, or the network interface (empty for any route)."""
    writable: bool = False

    @property
    def path(self) -> Path:
        """The path, of those that have one."""
        return Path(self.what)


def parse_need(text: object) -> Need:
    """Return the need that *text* writes. Raises ValueError that names the forms."""
    if isinstance(text, str) and "\0" not in text:
        kind, _, what = text.partition(":")
        need = _parse(kind, what)
        if need is not None:
            return need
    raise ValueError(f"need {text!r}: one of {', '.join(FORMS)} expected")


def _parse(kind: str, what: str) -> Need | None:
    match kind:
        case "service" | "interface":
            return Need(NeedKind(kind), what) if NAME.fullmatch(what) else None
        case "path":
            return Need(NeedKind.PATH, what) if what.startswith("/") else None
        case "device":
            return _device(what)
        case "mount":
            writable = what.endswith(":rw")
            folder = what.removesuffix(":rw")
            return Need(NeedKind.MOUNT, folder, writable) if folder.startswith("/") else None
        case "network":
            return Need(NeedKind.NETWORK, what) if not what or _LINK.fullmatch(what) else None
    return None


def _device(what: str) -> Need | None:
    usb = _USB.fullmatch(what.lower())
    if usb:
        return Need(NeedKind.USB, f"{usb[1]}:{usb[2]}")
    return Need(NeedKind.DEVICE, what) if what.startswith("/dev/") and len(what) > len("/dev/") else None
