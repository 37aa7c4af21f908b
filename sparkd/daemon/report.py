"""What status says, worked out from what is known: pure, but for reading /proc."""

from __future__ import annotations

import grp
import os
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparkd.conditions import BlockedLoop, LastFailure
from sparkd.core_interfaces import ServiceStatus
from sparkd.daemon.plugins import failed_state
from sparkd.registry import Failure, PluginSource
from sparkd.states import State
from sparkd.supervisor import Supervised

MAX_PROBLEM_CHARS = 250
"""Of the line that systemd shows: it takes 500, and the services come first."""
_KIB = 1024
_QUIET = (State.RUNNING, State.STARTING, State.STOPPED, State.DISABLED)


def of_service(
    service: Supervised, *, pid: int | None, memory: int | None, lines: list[str], blocked: BlockedLoop | None = None
) -> ServiceStatus:
    """Return the status of a service under supervision."""
    plan, end = service.plan, service.end
    waits = service.state in (State.BACKOFF, State.BROKEN, State.WAITING) and service.retry_at
    return ServiceStatus(
        name=service.name,
        plugin=plan.manifest.plugin,
        state=service.state,
        since=service.since,
        reason="" if service.state in _QUIET else end.reason,
        remedy="" if service.state in _QUIET else end.remedy,
        file=end.file,
        line=end.line,
        pid=pid,
        restarts=service.restarts,
        hangs=service.hangs,
        last_failure=_last_failure(service),
        blocked=blocked,
        retry_in_s=max(service.retry_at - time.monotonic(), 0.0) if waits else None,
        isolation=plan.isolation,
        energy=plan.energy,
        critical=plan.critical,
        serves=[interface.name for interface in plan.manifest.serves],
        memory_bytes=memory,
        last_lines=lines,
    )


def _last_failure(service: Supervised) -> LastFailure | None:
    end = service.failed
    if end is None:
        return None
    return LastFailure(
        at=service.failed_at,
        reason=end.reason,
        remedy=end.remedy,
        file=end.file,
        line=end.line,
        stack=list(end.stack),
    )


def of_failure(source: PluginSource, failure: Failure) -> ServiceStatus:
    """Return the status of a plugin that could not be read, in the place of the services it might have had."""
    return ServiceStatus(
        name=source.name,
        plugin=source.name,
        state=failed_state(failure),
        since=time.time(),
        reason=failure.message,
        remedy=failure.remedy or "mend the file; it is read again when it changes",
        file=failure.file,
        line=failure.line,
        last_lines=list(failure.trace),
    )


def summary(states: Mapping[str, State], failed: Mapping[str, State]) -> str:
    """Return one line: how many run, and which do not; *failed* are plugins that could not be read."""
    count = Counter(states.values())
    well = count[State.RUNNING]
    rest = [f"{name} {state.value}" for name, state in sorted(states.items()) if state is not State.RUNNING]
    rest += [f"{name} {state.value}" for name, state in sorted(failed.items())]
    total = len(states) + len(failed)
    return f"{well} of {total} services run" + (f"; {', '.join(rest)}" if rest else "")


def truth(services: str, problems: Sequence[str]) -> str:
    """Return one line of what *services* is a summary of, and of the first of *problems*."""
    if not problems:
        return services
    more = f" (and {len(problems) - 1} more: sparkctl status)" if len(problems) > 1 else ""
    return f"{services}; {textwrap.shorten(problems[0], MAX_PROBLEM_CHARS, placeholder=' …')}{more}"


def memory_of(pid: int | None) -> int | None:
    """Return the proportional set size of *pid* (or of this process) in bytes; None if it cannot be read."""
    try:
        for line in Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    except OSError:
        return None
    return None


def group_ids(name: str) -> frozenset[int]:
    """Return the id of the group called *name*; nothing if there is none."""
    try:
        return frozenset({grp.getgrnam(name).gr_gid}) if name else frozenset()
    except KeyError:
        return frozenset()
