"""What the kernel tells of links, addresses and routes: a cable that is out or in again is known at once."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import anyio

from sparkd import DeviceError

RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV4_ROUTE = 0x40
RTMGRP_IPV6_ROUTE = 0x400
GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
"""Of linux/rtnetlink.h; whoever may open the socket may listen to them."""
SETTLE_S = 0.3
"""One event of the network is a dozen messages; they are waited for."""
AT_MOST_EVERY_S = 2.0
"""Containers that come and go must not keep the watchdog busy."""


async def follow(changed: Callable[[], None]) -> None:
    """Call *changed* whenever something of the network did. Raises DeviceError if the kernel may not be listened to."""
    try:
        listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError as error:
        raise DeviceError(f"the kernel does not tell of the network: {error.strerror}") from None
    with listening:
        listening.setblocking(False)  # noqa: FBT003 - the standard library has no name for it
        listening.bind((0, GROUPS))
        while True:
            await anyio.wait_readable(listening)
            await anyio.sleep(SETTLE_S)
            _drain(listening)
            changed()
            await anyio.sleep(AT_MOST_EVERY_S - SETTLE_S)


def _drain(listening: socket.socket) -> None:
    """Read what there is. That some was lost (ENOBUFS) matters as little as what it says: all is looked at anyway."""
    buffer = bytearray(1 << 16)
    while True:
        try:
            listening.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
