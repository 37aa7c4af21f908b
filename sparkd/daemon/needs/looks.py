"""Whether what is needed is there, now: each look blocks, and may wait for a file system that does not answer."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from sparkd.devices import text_of, usb_devices
from sparkd.needs import Need, NeedKind

_SIOCGIFFLAGS = 0x8913
_UP, _RUNNING = 0x1, 0x40
"""IFF_UP and IFF_RUNNING of linux/if.h; a tunnel counts as running once it is up."""
_IFREQ = struct.Struct("16sH14x")
_ROUTE_UP = 0x1
_ROUTE_REJECT = 0x200
_ANYWHERE_6 = "0" * 32


@dataclass(frozen=True, slots=True)
class Lack:
    """What is not there, as a sentence, and what to do."""

    reason: str
    remedy: str


def look(need: Need, root: Path = Path("/")) -> Lack | None:
    """Return what *need* lacks; None if nothing. *root* stands for `/` where USB devices and routes are looked up."""
    match need.kind:
        case NeedKind.PATH:
            return _path(need.path)
        case NeedKind.DEVICE:
            return _device(need.path)
        case NeedKind.USB:
            return _usb(need.what, root)
        case NeedKind.MOUNT:
            return _mount(need, root / "proc/self/mountinfo")
        case NeedKind.NETWORK:
            return _link(need.what) if need.what else _route(root / "proc/net")
    return None


def _path(path: Path) -> Lack | None:
    try:
        path.stat()
    except FileNotFoundError:
        return Lack(f"needs {path}, which is not there", "make it, mount what it lies on, or correct the path")
    except (OSError, ValueError) as error:  # a dead mount, a folder that is closed to us, a name that cannot be
        why = getattr(error, "strerror", None) or error
        return Lack(f"needs {path}, which cannot be looked at: {why}", f"see its mount and rights: ls -ld {path}")
    return None


def _device(path: Path) -> Lack | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be looked at: {error.strerror}"
        return Lack(f"needs the device {path}, which {why}", "is it plugged in, and its driver loaded? journalctl -k")
    if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        return Lack(f"needs the device {path}, which is none, but a file", f"remove it: rm {path}")
    if not os.access(path, os.R_OK | os.W_OK):
        return Lack(f"needs the device {path}, which is closed to this daemon", "a udev rule, or the device's group")
    return None


def _usb(wanted: str, root: Path) -> Lack | None:
    if usb_devices(root, wanted):
        return None
    return Lack(f"needs the USB device {wanted}, which is not plugged in", f"plug it in; lsusb -d {wanted}")


def _mount(need: Need, table: Path) -> Lack | None:
    options = None
    for line in text_of(table).splitlines():
        fields = line.split()
        if len(fields) > 5 and _unescaped(fields[4]) == need.what.rstrip("/"):  # noqa: PLR2004 - proc_pid_mountinfo(5)
            options = (fields[5].split(","), fields[-1].split(","))  # of the mount, and of its file system
    if options is None:
        unit = need.what.strip("/").replace("-", "\\x2d").replace("/", "-")
        return Lack(
            f"needs the mount {need.what}, where nothing is mounted",
            f"systemctl start '{unit}.mount', or: mount {need.what}",
        )
    if need.writable and ("ro" in options[0] or "ro" in options[1]):
        return Lack(
            f"needs {need.what} to be writable, and it is mounted read-only", f"mount -o remount,rw {need.what}"
        )
    return None


def _unescaped(text: str) -> str:
    """Return a path of mountinfo, where blanks and backslashes are written as octal numbers."""
    for number in (r"\040", r"\011", r"\012", r"\134"):
        text = text.replace(number, chr(int(number[1:], 8)))
    return text


def _link(name: str) -> Lack | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError:
            return Lack(f"needs the network interface {name}, which is not there", f"ip link; wg-quick up {name}")
    flags = _IFREQ.unpack(answer)[1]
    if not (flags & _UP and flags & _RUNNING):
        return Lack(
            f"needs the network interface {name}, which is not up", f"ip link show {name}; the cable, the radio"
        )
    return None


def _route(net: Path) -> Lack | None:
    for line in text_of(net / "route").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == fields[7] == "00000000" and int(fields[3], 16) & _ROUTE_UP:  # noqa: PLR2004 - up to the mask
            return None
    for line in text_of(net / "ipv6_route").splitlines():
        fields = line.split()
        default = len(fields) > 9 and fields[0] == _ANYWHERE_6 and fields[1] == "00"  # noqa: PLR2004 - up to the interface
        if default and fields[9] != "lo" and not int(fields[8], 16) & _ROUTE_REJECT:
            return None
    return Lack("needs a network, and there is no route out of this machine", "ip route; the cable, the radio, DHCP")
