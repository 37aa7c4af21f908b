"""Who keeps a network interface, found by asking each, and having it take the interface down and up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sparkd.priv.programs import ProgramFailedError, Programs
from sparkd.priv.settings import Keeper

SYSFS = Path("/sys/class/net")
NETIF = Path("/run/systemd/netif/links")
"""Where systemd-networkd says of each link, by its number, whether it manages it (`ADMIN_STATE`)."""
STARTED = ("active", "activating", "reloading", "failed")
"""States of a unit that somebody wants; one that nobody started is `inactive`."""


def keeper_of(programs: Programs, interface: str, *, sysfs: Path = SYSFS, netif: Path = NETIF) -> Keeper:
    """Return who keeps *interface*. Raises ProgramFailedError if nobody does, or nobody that is known."""
    if _wg_quick_keeps(programs, interface):
        return "wg-quick"
    if _networkd_keeps(interface, sysfs, netif):
        return "networkd"
    if _networkmanager_keeps(programs, interface):
        return "networkmanager"
    raise ProgramFailedError(
        f"neither wg-quick@{interface}.service, systemd-networkd nor NetworkManager keeps {interface}"
    )


def _wg_quick_keeps(programs: Programs, interface: str) -> bool:
    """Whether its unit was started, or failed at that; an instance that nobody wanted is `inactive`."""
    with suppress(ProgramFailedError):
        shown = programs.systemctl("show", "--property=ActiveState", f"wg-quick@{interface}.service")
        return not {f"ActiveState={state}" for state in STARTED}.isdisjoint(shown.split())
    return False


def _networkd_keeps(interface: str, sysfs: Path, netif: Path) -> bool:
    with suppress(OSError, ValueError):
        number = int((sysfs / interface / "ifindex").read_text())
        said = dict(line.split("=", 1) for line in (netif / str(number)).read_text().splitlines() if "=" in line)
        return said.get("ADMIN_STATE") in {"configured", "configuring", "failed"}
    return False


def _networkmanager_keeps(programs: Programs, interface: str) -> bool:
    """Whether the device's state is above 10, which is `unmanaged`."""
    with suppress(ProgramFailedError, ValueError):
        said = programs.nmcli("--terse", "--get-values", "GENERAL.STATE", "device", "show", interface)
        return int(said.split()[0]) > 10 if said.split() else False  # noqa: PLR2004 - NM_DEVICE_STATE_UNMANAGED
    return False


def restart(programs: Programs, interface: str, keeper: Keeper) -> None:
    """Have *keeper* take *interface* down and up. Raises ProgramFailedError."""
    _RESTARTS[keeper](programs, interface)


def _by_wg_quick(programs: Programs, interface: str) -> None:
    programs.systemctl("restart", f"wg-quick@{interface}.service")


def _by_networkd(programs: Programs, interface: str) -> None:
    """Down and up, because `reconfigure` leaves a WireGuard device as it is; then addresses and routes again."""
    try:
        programs.networkctl("down", interface)
    finally:
        programs.networkctl("up", interface)
    programs.networkctl("reconfigure", interface)


def _by_networkmanager(programs: Programs, interface: str) -> None:
    with suppress(ProgramFailedError):  # one that is down already is what is wanted first
        programs.nmcli("device", "disconnect", interface)
    programs.nmcli("device", "connect", interface)


_RESTARTS: dict[str, Callable[[Programs, str], None]] = {
    "wg-quick": _by_wg_quick,
    "networkd": _by_networkd,
    "networkmanager": _by_networkmanager,
}
