"""Hearing from the kernel that something may have come or gone.

Each function tells once it listens, then after every change, until cancelled. What it tells is a hint: who is told
looks for himself.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
from anyio import to_thread
from asyncinotify import Inotify, Mask

QUIET_S = 0.05
"""A change is seldom alone."""
AGAIN_S = 5.0
"""Where there is nothing to watch, or no watch left."""
LOOK_LIMIT_S = 1.0
NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT = 0, 15
ROUTE_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE of linux/rtnetlink.h."""
KERNEL_EVENTS = 1
_MOUNTS = "/proc/self/mountinfo"
_BYTES = 1 << 16
_FOLDER = Mask.CREATE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF

Tell = Callable[[], None]


async def of_paths(paths: Iterable[Path], tell: Tell) -> None:
    """Tell of changes on the way to *paths*: the nearest folder that exists is watched, anew after each change."""
    wanted = list(paths)
    while True:
        folders = await _nearest(wanted)
        try:
            with Inotify() as inotify:
                for folder in folders:
                    inotify.add_watch(folder, _FOLDER | Mask.ONLYDIR)
                if await _nearest(wanted) != folders:  # something came between the look and the watch
                    continue
                tell()
                if not folders:
                    await anyio.sleep_forever()  # all are on mounts that do not answer; a change of mounts is told
                await inotify.get()
                await anyio.sleep(QUIET_S)
        except OSError:  # a folder went away meanwhile, or no watch is left
            tell()
            await anyio.sleep(AGAIN_S)


async def _nearest(paths: list[Path]) -> set[Path]:
    """Return the nearest existing folder of each path; none for a path whose file system does not answer."""
    found: set[Path] = set()
    for path in paths:
        with anyio.move_on_after(LOOK_LIMIT_S):
            found.add(await to_thread.run_sync(_nearest_folder, path, abandon_on_cancel=True))
    return found


def _nearest_folder(path: Path) -> Path:
    """Return the folder in which *path*, or the next part of the way to it, would appear; links are followed."""
    for folder in path.parents:
        if folder.is_dir():
            return folder.resolve()
    return Path("/")


async def of_mounts(tell: Tell) -> None:
    """Tell of changes of what is mounted."""
    with open(_MOUNTS, "rb", buffering=0) as mounts, select.epoll() as changes:  # noqa: PTH123, ASYNC230 - a file of the kernel's, in memory
        # The file itself is always readable. An epoll of its own, asked for urgent news only, becomes readable by a
        # change of the table (proc_pid_mountinfo(5)), which any event loop can wait for.
        changes.register(mounts.fileno(), select.EPOLLPRI | select.EPOLLERR | select.EPOLLET)
        changes.poll(0)
        tell()
        while True:
            await anyio.wait_readable(changes.fileno())
            changes.poll(0)
            await anyio.sleep(QUIET_S)
            tell()


async def of_network(tell: Tell) -> None:
    """Tell of changes of interfaces, addresses and routes."""
    await _of_netlink(NETLINK_ROUTE, ROUTE_GROUPS, tell)


async def of_devices(tell: Tell) -> None:
    """Tell of devices that the kernel finds or loses."""
    await _of_netlink(NETLINK_KOBJECT_UEVENT, KERNEL_EVENTS, tell)


async def _of_netlink(family: int, groups: int, tell: Tell) -> None:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family
    ) as news:
        news.bind((0, groups))
        tell()
        while True:
            await anyio.wait_readable(news)
            _drain(news)
            await anyio.sleep(QUIET_S)
            _drain(news)
            tell()


def _drain(news: socket.socket) -> None:
    """Read what is there: only that something came is of interest. What was lost for want of room is told too."""
    while True:
        try:
            news.recv(_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: there was more than the kernel keeps
            continue
