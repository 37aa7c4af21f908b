"""Doing a deed: one function each, and the table that holds them."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparkd.deeds import (
    Deed,
    Done,
    InterfaceRestart,
    NftLoad,
    Shutdown,
    UnitDump,
    UnitStart,
    UnitStatus,
    UnitStop,
    WakeHost,
    WgSet,
    WgShow,
    verb_of,
)
from sparkd.priv import units, wireguard
from sparkd.priv.grant import grant_of, require_roots_code
from sparkd.priv.keepers import keeper_of, restart
from sparkd.priv.programs import ProgramFailedError, Programs
from sparkd.priv.settings import Settings
from sparkd.priv.trust import require_roots

WAKE_ADDRESS = "255.255.255.255"
WAKE_PORT = 9


class DeniedError(Exception):
    """A rule of root's forbids the deed; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What deeds are done with."""

    programs: Programs
    specs: Path
    """Root's own folder for specs on their way into a unit."""
    settings_file: Path
    wake_to: tuple[str, int] = (WAKE_ADDRESS, WAKE_PORT)


def perform(deed: Deed, settings: Settings, means: Means) -> Done:
    """Do *deed*. Raises DeniedError, ConfigError or ProgramFailedError."""
    verb = verb_of(deed)
    if verb not in settings.verbs:
        raise DeniedError(f"{verb} is not among the verbs of {means.settings_file}")
    return _DEEDS[type(deed)](deed, settings, means)


def _unit_start(deed: UnitStart, settings: Settings, means: Means) -> Done:
    grant = grant_of(settings, deed.plugin)
    require_roots_code(deed.spec)
    if grant.table.python is not None:
        require_roots(grant.table.python)
    state = units.start(
        means.programs, settings, grant, means.specs, plugin=deed.plugin, service=deed.service, spec=deed.spec
    )
    return Done(unit=state)


def _unit_stop(deed: UnitStop, _settings: Settings, means: Means) -> Done:
    return Done(unit=units.stop(means.programs, units.unit_name(deed.plugin, deed.service), at_once=deed.at_once))


def _unit_status(deed: UnitStatus, _settings: Settings, means: Means) -> Done:
    return Done(unit=units.show(means.programs, units.unit_name(deed.plugin, deed.service)))


def _unit_dump(deed: UnitDump, _settings: Settings, means: Means) -> Done:
    units.dump(means.programs, units.unit_name(deed.plugin, deed.service))
    return Done()


def _interface_restart(deed: InterfaceRestart, settings: Settings, means: Means) -> Done:
    _require_listed(deed.interface, settings, means)
    keeper = settings.interfaces[deed.interface]
    if keeper == "auto":
        keeper = keeper_of(means.programs, deed.interface)
    restart(means.programs, deed.interface, keeper)
    return Done(said=f"{deed.interface} restarted by {keeper}")


def _require_listed(interface: str, settings: Settings, means: Means) -> None:
    if interface not in settings.interfaces:
        raise DeniedError(f"interface {interface!r} is not among the interfaces of {means.settings_file}")


def _wg_show(deed: WgShow, settings: Settings, means: Means) -> Done:
    _require_listed(deed.interface, settings, means)
    return Done(shown={what: means.programs.wg("show", deed.interface, what) for what in dict.fromkeys(deed.what)})


def _wg_set(deed: WgSet, settings: Settings, means: Means) -> Done:
    _require_listed(deed.interface, settings, means)
    return Done(said=wireguard.change(means.programs, deed))


def _nft_load(deed: NftLoad, settings: Settings, means: Means) -> Done:
    file = settings.nft_dir / f"{deed.rules}.nft"
    require_roots(file)
    means.programs.nft("--check", "--file", str(file))
    means.programs.nft("--file", str(file))
    return Done(said=f"{file} loaded")


def _wake_host(deed: WakeHost, settings: Settings, means: Means) -> Done:
    mac = settings.hosts.get(deed.host)
    if mac is None:
        raise DeniedError(f"host {deed.host!r} is not among the hosts of {means.settings_file}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sender.sendto(magic_packet(mac), means.wake_to)
        except OSError as error:
            raise ProgramFailedError(f"the magic packet cannot be sent: {error.strerror}") from None
    return Done(said=f"magic packet sent to {mac}")


def magic_packet(mac: str) -> bytes:
    """Return what wakes the machine with the address *mac*: six times 255, then the address sixteen times."""
    return b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16


def _shutdown(deed: Shutdown, _settings: Settings, means: Means) -> Done:
    objections = _objections(means.programs)
    if deed.dry_run:
        return Done(said=f"in the way: {objections}" if objections else "nothing is in the way")
    if objections:
        raise DeniedError(f"{deed.how} is inhibited: {objections}")
    if deed.delay_s:
        timer = ("--unit=sparkd-shutdown", f"--on-active={deed.delay_s}s", "--timer-property=AccuracySec=1s", "--quiet")
        means.programs.systemd_run(*timer, "--", str(means.programs.folder / "systemctl"), deed.how)
    else:
        means.programs.systemctl("--no-block", deed.how)
    return Done(said=f"{deed.how} in {deed.delay_s} s")


def _objections(programs: Programs) -> str:
    """Return who has asked that the machine stay on; without logind nobody can have."""
    try:
        listed = programs.systemd_inhibit("--list", "--mode=block", "--no-legend")
    except ProgramFailedError:
        return ""
    blocking = [line for line in listed.splitlines() if re.search(r"\bshutdown\b.*\bblock\b", line)]
    return "; ".join(" ".join(line.split()) for line in blocking)


_DEEDS: dict[type[Any], Callable[[Any, Settings, Means], Done]] = {
    UnitStart: _unit_start,
    UnitStop: _unit_stop,
    UnitStatus: _unit_status,
    UnitDump: _unit_dump,
    InterfaceRestart: _interface_restart,
    NftLoad: _nft_load,
    WgShow: _wg_show,
    WgSet: _wg_set,
    WakeHost: _wake_host,
    Shutdown: _shutdown,
}
