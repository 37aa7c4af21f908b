"""Changing one thing of a WireGuard interface. Secrets go from `wg` to `wg` through memory that nobody here reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sparkd.deeds import WgSet
from sparkd.priv.programs import ProgramFailedError, Programs

TRIES = 3
"""A peer that was taken out is put back, if need be so many times."""


def change(programs: Programs, deed: WgSet) -> str:
    """Do *deed*; return what was done. Raises ProgramFailedError.

    A peer that is not there is refused: `wg set` would make one.
    """
    if deed.change == "listen-port":
        programs.wg("set", deed.interface, "listen-port", str(deed.value))
        return f"{deed.interface} listens at {programs.wg('show', deed.interface, 'listen-port').strip()}"
    _require_peer(programs, deed)
    if deed.change == "reset-peer":
        return _reset(programs, deed)
    value = deed.endpoint or str(deed.value)
    programs.wg("set", deed.interface, "peer", deed.peer, deed.change, value)
    return f"{deed.interface} peer {deed.peer}: {deed.change} {value}"


def _require_peer(programs: Programs, deed: WgSet) -> None:
    if deed.peer not in programs.wg("show", deed.interface, "peers").split():
        raise ProgramFailedError(f"{deed.interface} has no peer {deed.peer}")


def _reset(programs: Programs, deed: WgSet) -> str:
    with _memory() as config:
        programs.wg_showconf(deed.interface, into=config)
        if not os.fstat(config).st_size:
            raise ProgramFailedError(f"wg shows no config of {deed.interface}; the peer was left as it is")
        try:
            programs.wg("set", deed.interface, "peer", deed.peer, "remove")
        finally:
            _put_back(programs, deed.interface, config)
    _require_peer(programs, deed)
    return f"{deed.interface} peer {deed.peer}: out and in again"


def _put_back(programs: Programs, interface: str, config: int) -> None:
    for left in reversed(range(TRIES)):
        try:
            programs.wg_syncconf(interface, of=config)
        except ProgramFailedError:
            if not left:
                raise
        else:
            return


@contextmanager
def _memory() -> Iterator[int]:
    """Give a file in memory without a name; it is gone when it is closed."""
    descriptor = os.memfd_create("wg", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
