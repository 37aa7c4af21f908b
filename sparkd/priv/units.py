"""A service as a transient systemd unit: how it is confined, started, looked at and ended.

The unit sees of the core three sockets and one for its output, bound over an empty folder; it has a user of its own,
no capability, no network and no device but those that root's config grants, and a state folder of its own. The spec
reaches it as a credential, and is removed here as soon as it has it: a unit that systemd starts again by itself, with
a token that is spent, fails before it runs any code.

`Before=sparkd.service`, not `After`: the core waits for a first attempt of its services before it is ready, so a unit
that waited for the core would never start. For the same reason it stops after the core, which ends it in order.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import suppress
from pathlib import Path

from sparkd.config import SPEC_CREDENTIAL, UnitTable
from sparkd.deeds import UnitState
from sparkd.priv.grant import Grant
from sparkd.priv.programs import ProgramFailedError, Programs
from sparkd.priv.settings import Settings
from sparkd.unit import installed_version

CORE_UNIT = "sparkd.service"
SOCKETS = ("calls", "bus.pub", "bus.sub")
OUTPUT = "output"
"""The socket, in the unit's view of the runtime folder, that takes what it writes."""
_SHOWN = ("ActiveState", "MainPID", "Result", "ExecMainStatus")

CONFINED = (
    "Type=exec",
    f"BindsTo={CORE_UNIT}",
    f"PartOf={CORE_UNIT}",
    f"Before={CORE_UNIT}",
    "KillMode=control-group",
    "TimeoutStartSec=20",
    "TimeoutStopSec=5",
    "OOMPolicy=kill",
    "OOMScoreAdjust=100",
    "LimitCORE=0",
    "TasksMax=256",
    "UMask=0077",
    "StateDirectoryMode=0700",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",  # not @resources: libzmq sets its threads' scheduling, and aborts if it may not
    "SystemCallErrorNumber=EPERM",
    "InaccessiblePaths=-/var/lib/sparkd -/var/cache/sparkd -/run/sparkd-priv -/var/log/sparkd-priv",
)
"""What no config loosens."""


def unit_name(plugin: str, service: str) -> str:
    """Return the unit's name; no name has two hyphens in a row, so no two services can share one."""
    return f"sparkd-plugin-{plugin}" if plugin == service else f"sparkd-plugin-{plugin}--{service}"


def properties(name: str, service: str, grant: Grant, settings: Settings, spec: Path) -> list[str]:
    """Return the properties of the unit *name*, each as systemd-run takes it."""
    table, runtime = grant.table, grant.runtime
    binds = [*((f"{runtime}/{socket}", f"{runtime}/{socket}") for socket in SOCKETS)]
    binds.append((f"{runtime}/units/{service}", f"{runtime}/{OUTPUT}"))
    return [
        *CONFINED,
        f"StateDirectory={name}",
        f"SyslogIdentifier={name}",
        f"TemporaryFileSystem={runtime}:ro,mode=0755",
        *(f"BindReadOnlyPaths={outside}:{inside}" for outside, inside in binds),
        f"LoadCredential={SPEC_CREDENTIAL}:{spec}",
        *(f"LoadCredential={_credential(one, settings)}" for one in table.credentials),
        *_identity(table),
        *_reach(table),
        *_devices(table),
        *_limits(table),
    ]


def _credential(written: str, settings: Settings) -> str:
    name, _, path = written.partition(":")
    return f"{name}:{path or settings.credentials_dir / name}"


def _identity(table: UnitTable) -> list[str]:
    who = [f"User={table.user}"] if table.user else ["DynamicUser=yes"]
    groups = [f"SupplementaryGroups={' '.join(table.groups)}"] if table.groups else []
    # In a user namespace of its own a unit could not use what belongs to a group or an account of the machine.
    alone = [] if table.groups or table.user or table.devices else ["PrivateUsers=yes"]
    return [*who, *groups, *alone, *(f"ReadWritePaths={path}" for path in table.read_write_paths)]


def _reach(table: UnitTable) -> list[str]:
    if table.network:
        return ["RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"]
    return ["RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes", "IPAddressDeny=any"]


def _devices(table: UnitTable) -> list[str]:
    if not table.devices:
        return ["PrivateDevices=yes", "DevicePolicy=closed", "ProcSubset=pid"]
    allowed = [device if " " in device else f"{device} rw" for device in table.devices]
    return ["DevicePolicy=closed", *(f"DeviceAllow={device}" for device in allowed)]


def _limits(table: UnitTable) -> list[str]:
    memory = [f"MemoryMax={table.memory_max_bytes}"] if table.memory_max_bytes else []
    cpu = [f"CPUQuota={table.cpu_max_percent:g}%"] if table.cpu_max_percent else []
    return [*memory, *cpu]


def command(table: UnitTable, runtime: Path) -> list[str]:
    """Return what the unit runs."""
    program = importlib.util.find_spec("sparkd.unit")
    assert program is not None  # noqa: S101 - it is a file beside this package
    assert program.origin is not None  # noqa: S101 - likewise
    return [
        str(table.python or sys.executable),
        *("-I", "-B", "-X", "utf8"),
        program.origin,
        f"--packages={':'.join(_packages())}",
        f"--output={runtime}/{OUTPUT}",
        f"--version={installed_version()}",
    ]


def _packages() -> list[str]:
    """Return the folders that hold sparkd and what it needs: one and the same, unless it is being worked on."""
    found = []
    for name in ("sparkd", "msgspec"):
        spec = importlib.util.find_spec(name)
        assert spec is not None  # noqa: S101 - both are loaded
        assert spec.origin is not None  # noqa: S101 - and files
        found.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(found))


def start(
    programs: Programs, settings: Settings, grant: Grant, folder: Path, *, plugin: str, service: str, spec: bytes
) -> UnitState:
    """Start the unit, ending one that is there; return it once its program runs. Raises ProgramFailedError."""
    name = unit_name(plugin, service)
    stop(programs, name, at_once=True)
    file = _write(folder / name, spec)
    try:
        given = properties(name, service, grant, settings, file)
        options = [f"--unit={name}", f"--description=sparkd: {service}", "--quiet", *(f"--property={p}" for p in given)]
        programs.systemd_run(*options, "--", *command(grant.table, grant.runtime))
    except ProgramFailedError as error:
        state = show(programs, name)
        with suppress(ProgramFailedError):  # it may not have come so far as to be known
            programs.systemctl("reset-failed", f"{name}.service")
        raise ProgramFailedError(f"{name} did not start ({state.result} {state.status}): {error}") from None
    finally:
        file.unlink()
    return show(programs, name)


def stop(programs: Programs, name: str, *, at_once: bool) -> UnitState:
    """End the unit *name*, and return how it ended; nothing is left of it then. Raises ProgramFailedError."""
    if show(programs, name).pid and at_once:
        with suppress(ProgramFailedError):  # it may just have ended
            programs.systemctl("kill", "--signal=SIGKILL", f"{name}.service")
    with suppress(ProgramFailedError):  # systemd does not know it any more, which is what is wanted
        programs.systemctl("stop", f"{name}.service")
    state = show(programs, name)
    if state.active == "failed":
        programs.systemctl("reset-failed", f"{name}.service")
    elif state.active in {"active", "activating", "deactivating", "reloading"}:
        raise ProgramFailedError(f"{name} did not stop: it is {state.active}")
    return state


def dump(programs: Programs, name: str) -> None:
    """Make the unit's own process write where its threads are. Raises ProgramFailedError."""
    programs.systemctl("kill", "--kill-who=main", "--signal=SIGUSR2", f"{name}.service")


def show(programs: Programs, name: str) -> UnitState:
    """Return how the unit *name* is. Raises ProgramFailedError."""
    said = programs.systemctl("show", f"--property={','.join(_SHOWN)}", f"{name}.service")
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return UnitState(
        unit=name,
        active=found.get("ActiveState", "inactive"),
        pid=int(found.get("MainPID") or 0),
        result=found.get("Result") or "success",
        status=int(found.get("ExecMainStatus") or 0),
    )


def _write(path: Path, content: bytes) -> Path:
    path.unlink(missing_ok=True)  # of a daemon that was killed in between
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
        file.write(content)
    return path
