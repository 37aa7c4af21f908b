"""Noticing at once that a key file was added, changed or removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from asyncinotify import Inotify, Mask

from sparkd.link.keys import KeyStore

QUIET_S = 0.05
"""An event is a hint: several files may be written together."""
FALLBACK_S = 10.0

_FILES = Mask.CLOSE_WRITE | Mask.MOVED_TO | Mask.MOVED_FROM | Mask.DELETE | Mask.ATTRIB | Mask.CREATE
_FOLDER = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR


async def watch(store: KeyStore, on_change: Callable[[], Awaitable[None]]) -> None:
    """Call *on_change* now, and after every change of the files in *store*; until cancelled.

    Each round watches anew before it looks, so no change is missed, not even that of a folder removed and made again.
    Where the folder cannot be watched (no inotify watch left, no right to make it), it is looked at now and then.
    """
    while True:
        try:
            await anyio.to_thread.run_sync(store.prepare)
            with Inotify() as inotify:
                for folder in (store.folder, store.trusted_folder, store.invites_folder):
                    inotify.add_watch(folder, _FILES | _FOLDER)
                await on_change()
                await inotify.get()
                await anyio.sleep(QUIET_S)
        except OSError:
            await on_change()
            await anyio.sleep(FALLBACK_S)
