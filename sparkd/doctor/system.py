"""systemd: the unit, its watchdog and restarts, the journal."""

from __future__ import annotations

from collections.abc import Iterator

from sparkd.doctor.scene import Finding, Scene, named, note, ok, problem, skipped, warning

UNIT = "sparkd.service"
MANY_RESTARTS = 3
_WANTED = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "Type": "notify"}


def _shown(scene: Scene) -> dict[str, str]:
    names = "LoadState,ActiveState,SubState,UnitFileState,NRestarts,WatchdogUSec,NeedDaemonReload,NotifyAccess"
    said = scene.run(["systemctl", "show", UNIT, "-p", f"{names},{','.join(_WANTED)}"]) or ""
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


@named("unit")
def unit(scene: Scene) -> Iterator[Finding]:
    """Whether systemd keeps the daemon, and starts it with the machine."""
    shown = _shown(scene)
    if shown.get("LoadState") != "loaded":
        yield skipped(f"{UNIT} is not installed, or there is no systemd", "sudo make install")
        return
    if shown.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        yield warning("it does not start with the machine", f"systemctl enable {UNIT}")
    if shown.get("NeedDaemonReload") == "yes":
        yield warning("its file has changed since systemd read it", "systemctl daemon-reload")
    if shown.get("ActiveState") != "active":
        yield problem(f"it is {shown.get('ActiveState')} ({shown.get('SubState')})", f"journalctl -u {UNIT} -n 50")
    else:
        yield ok("enabled and active" if shown.get("UnitFileState") == "enabled" else "active")


@named("watchdog")
def watchdog(scene: Scene) -> Iterator[Finding]:
    """Whether systemd notices a daemon that hangs, and how often it had to start it again."""
    shown = _shown(scene)
    if shown.get("LoadState") != "loaded":
        yield skipped(f"{UNIT} is not installed")
        return
    if shown.get("WatchdogUSec", "0") in ("0", "infinity"):
        yield warning(
            "systemd would not notice that the daemon hangs", "WatchdogSec=30 in the unit; see systemd/sparkd.service"
        )
    else:
        yield ok(f"systemd waits {shown['WatchdogUSec']} for a sign of life")
    restarts = int(shown.get("NRestarts") or 0)
    if restarts >= MANY_RESTARTS:
        yield warning(f"systemd has started it again {restarts} times", f"journalctl -u {UNIT}; sparkctl logs core")


@named("hardening")
def hardening(scene: Scene) -> Iterator[Finding]:
    """Whether the unit in force still closes what ours does."""
    shown = _shown(scene)
    if shown.get("LoadState") != "loaded":
        yield skipped(f"{UNIT} is not installed")
        return
    open_ = [f"{name}={shown.get(name)}" for name, value in _WANTED.items() if shown.get(name) != value]
    if open_:
        yield warning(f"a drop-in loosens the unit: {', '.join(open_)}", f"systemctl cat {UNIT}")
    else:
        yield ok("the unit is closed as it was shipped")


@named("journal")
def journal(scene: Scene) -> Iterator[Finding]:
    """Whether the journal outlives a restart of the machine; ours does."""
    if not scene.path("/run/systemd/system").exists():
        yield skipped("no systemd runs")
    elif not scene.glob("/var/log/journal/*/system.journal"):
        own = "sparkctl logs outlives it" if scene.config.logs.max_bytes else "and [logs] max_bytes is 0"
        yield note(
            f"the journal is gone after a restart of the machine; {own}", "mkdir /var/log/journal, if you want it kept"
        )
    else:
        yield ok("the journal is kept on disk")


CHECKS = (unit, watchdog, hardening, journal)
