"""What the kernel's sockets need to be told that Python has no name for."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress

IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_PROBE = 3
"""Do not fragment, and do not go by what is remembered of the path (linux/in.h)."""
SIOCGIFFLAGS = 0x8913
SIOCGIFMTU = 0x8921
IFF_UP = 0x1
IFF_RUNNING = 0x40
IPV6 = 6


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of a literal address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def bind_to(sender: socket.socket, device: str) -> None:
    """Have *sender* use *device* only. Raises OSError if it is gone; kernels before 5.7 keep it for root."""
    if device:
        with suppress(PermissionError):
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")


def keep_whole(sender: socket.socket) -> None:
    """Have *sender*'s packets go through whole or not at all."""
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
    else:
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)


def mtu_of(device: str) -> int | None:
    """Return the MTU of *device*; None if it is not there."""
    answer = _ask(device, SIOCGIFMTU)
    return None if answer is None else int(struct.unpack_from("i", answer, 16)[0])


def has_link(device: str) -> bool:
    """Whether *device* is up and has a carrier."""
    answer = _ask(device, SIOCGIFFLAGS)
    flags = 0 if answer is None else int(struct.unpack_from("H", answer, 16)[0])
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def _ask(device: str, what: int) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            return fcntl.ioctl(asking, what, struct.pack("16s24x", device.encode()[:15]))
        except OSError:
            return None
