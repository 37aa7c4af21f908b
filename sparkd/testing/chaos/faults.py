"""The kinds of harm: each is done to one node of a running rig, and says how long the node took to be whole again.

A fault that lasts (a broken drop-in, a cut link, a full disk) returns at once and is ended by a later call of the
function it returned, so that other faults fall into it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sparkd.daemon.exits import EX_TEMPFAIL
from sparkd.errors import CallError
from sparkd.supervisor.policy import PAUSE_MAX_S
from sparkd.testing.chaos.plugins import BROKEN, broken
from sparkd.testing.chaos.rig import LOOK_S, SERVICES, WATCHDOG_S, Kept, Rig, drop_in, until

RECOVERY_LIMIT_S = PAUSE_MAX_S * 1.25 + 10.0
"""A service that is hit again and again gets the longest pause before its next start (`sparkd.supervisor.policy`)."""
CAUGHT_LIMIT_S = WATCHDOG_S + 2.0
HOUR_S = 3600
BAD_CONFIGS = ("[node\n", "[nod]\nname = 1\n", "[node]\nlog_level = 'loud'\n", "[link]\nheartbeat_s = -1\n")
BLOCK_BYTES = 4096

End = Callable[[], None]


@dataclass
class Blow:
    """One fault: what was done to whom, and what came of it."""

    kind: str
    victim: str
    recovered_s: float | None = None
    """Until the victim was there again; None if that was not waited for, or did not happen within the limit."""
    caught_s: float | None = None
    """For a stopped service: until the core had ended it."""
    end: End | None = None
    """For a fault that lasts: what ends it."""
    trouble: str = ""
    """What broke a promise."""


@dataclass
class Harm:
    """Does the faults, by a chance that its seed decides."""

    rig: Rig
    chance: random.Random
    spared: str = ""
    """The side whose core and zygote are not killed now, so that its memory can be watched for long."""
    number: int = 0
    lasting: set[str] = field(default_factory=set)
    """The kinds that last at present: recovery is not promised while a disk is full."""

    def kinds(self) -> list[str]:
        """Return the kinds that are possible here."""
        return [kind for kind in FAULTS if self.rig.disks or kind != "full disk"]

    def any_node(self) -> Kept:
        """Return one of the nodes."""
        return self.chance.choice(self.rig.nodes)

    def mortal(self) -> Kept:
        """Return a node whose core may be killed."""
        return self.chance.choice([kept for kept in self.rig.nodes if kept.side != self.spared])

    def recovered(self, blow: Blow, whole: Callable[[], bool]) -> Blow:
        """Wait until *whole*; a blow that is not recovered from although nothing else is wrong broke a promise."""
        blow.recovered_s = until(whole, limit_s=RECOVERY_LIMIT_S)
        if blow.recovered_s is None and not self.lasting:
            blow.trouble = f"not back within {RECOVERY_LIMIT_S:g} s after {blow.kind}"
        return blow


def kill_service(harm: Harm) -> Blow:
    """SIGKILL a service."""
    kept = harm.any_node()
    name = harm.chance.choice(SERVICES[kept.side])
    blow, pid = Blow("kill service", f"{kept.side} {name}"), kept.pid_of(name)
    if pid is None:
        return blow
    _signal(pid, signal.SIGKILL)
    return harm.recovered(blow, lambda: kept.pid_of(name) not in (None, pid))


def kill_zygote(harm: Harm) -> Blow:
    """SIGKILL the zygote: the core must end with the code that says so."""
    kept = harm.mortal()
    blow, zygote = Blow("kill zygote", kept.side), kept.zygote()
    if zygote is None:
        return blow
    daemon = kept.pid
    kept.ordered[daemon] = EX_TEMPFAIL
    _signal(zygote, signal.SIGKILL)
    return harm.recovered(blow, lambda: kept.pid != daemon and kept.up())


def kill_core(harm: Harm) -> Blow:
    """SIGKILL a core."""
    kept = harm.mortal()
    daemon = kept.pid
    kept.ordered[daemon] = None
    _signal(daemon, signal.SIGKILL)
    return harm.recovered(Blow("kill core", kept.side), lambda: kept.pid != daemon and kept.up())


def stop_service(harm: Harm) -> Blow:
    """SIGSTOP a service: its watchdog must end it in time."""
    kept = harm.any_node()
    name = harm.chance.choice(SERVICES[kept.side])
    blow, pid = Blow("stop service", f"{kept.side} {name}"), kept.pid_of(name)
    if pid is None:
        return blow
    _signal(pid, signal.SIGSTOP)
    blow.caught_s = until(lambda: _is_gone(pid), limit_s=CAUGHT_LIMIT_S + 10)
    if blow.caught_s is None:
        _signal(pid, signal.SIGKILL)
        blow.trouble = "a stopped service was not caught"
        return blow
    return harm.recovered(blow, lambda: kept.pid_of(name) not in (None, pid))


def stop_core(harm: Harm) -> Blow:
    """SIGSTOP a core for some seconds: it goes on, and blames no service."""
    kept = harm.any_node()
    daemon, stopped_s = kept.pid, harm.chance.uniform(1.0, 2 * WATCHDOG_S)
    before = {name: int(service["hangs"]) for name, service in kept.services().items()}
    _signal(daemon, signal.SIGSTOP)
    time.sleep(stopped_s)  # noqa: TID251 - the fault is that it stands still for so long
    _signal(daemon, signal.SIGCONT)
    blow = harm.recovered(Blow("stop core", kept.side), kept.up)
    after = {name: int(service["hangs"]) for name, service in kept.services().items()}
    blamed = [name for name in before if kept.pid == daemon and after.get(name, 0) > before[name]]
    if blamed:
        blow.trouble = f"services blamed for the core's own stop of {stopped_s:.1f} s: {', '.join(blamed)}"
    return blow


def fill_disk(harm: Harm) -> Blow:
    """Leave no room on the disk of a node's state."""
    kept = harm.any_node()
    stuff = kept.node.state / "stuff"
    _stuff(stuff)
    return Blow("full disk", kept.side, end=lambda: stuff.unlink(missing_ok=True))


def step_clock(harm: Harm) -> Blow:
    """Set a node's clock an hour ahead, an hour back, or right."""
    kept, offset_s = harm.any_node(), harm.chance.choice((-HOUR_S, 0, HOUR_S))
    kept.set_clock(offset_s)
    return Blow("clock step", f"{kept.side} to {offset_s:+d} s")


def break_drop_in(harm: Harm) -> Blow:
    """Add a drop-in that is broken; it is taken away again later."""
    kept, how = harm.any_node(), harm.chance.choice(BROKEN)
    harm.number += 1
    file = drop_in(kept.node, f"broken_{harm.number}", broken(how, f"broken-{harm.number}"))
    return Blow("broken drop-in", f"{kept.side}: {how}", end=lambda: file.unlink(missing_ok=True))


def break_link(harm: Harm) -> Blow:
    """Cut the link, let it stand still, or make it slow."""
    how, proxy = harm.chance.choice(("cut", "stall", "throttle")), harm.rig.proxy
    if how == "cut":
        proxy.cut()
    elif how == "stall":
        proxy.stall()
    else:
        proxy.throttle(harm.chance.uniform(2_000, 50_000))
    return Blow("link", how, end=proxy.heal)


def reload_bad_config(harm: Harm) -> Blow:
    """Have a config loaded that is wrong: it is refused, and nothing changes."""
    kept = harm.any_node()
    blow, file = Blow("bad config", kept.side), Path(kept.node.config_file.parent / "sparkd.d" / "zz-bad.toml")
    file.write_text(harm.chance.choice(BAD_CONFIGS), encoding="utf-8")
    try:
        kept.node.call("config.reload")
    except (CallError, OSError):  # refused; or the core does not answer at present
        return blow
    else:
        blow.trouble = "a config that is wrong was taken over"
        return blow
    finally:
        file.unlink()
        with contextlib.suppress(CallError, OSError):
            kept.node.call("config.reload")


FAULTS: dict[str, Callable[[Harm], Blow]] = {
    "kill service": kill_service,
    "kill zygote": kill_zygote,
    "kill core": kill_core,
    "stop service": stop_service,
    "stop core": stop_core,
    "full disk": fill_disk,
    "clock step": step_clock,
    "broken drop-in": break_drop_in,
    "link": break_link,
    "bad config": reload_bad_config,
}
WEIGHTS = {
    "kill service": 10,
    "kill zygote": 1,
    "kill core": 1,
    "stop service": 3,
    "stop core": 1,
    "full disk": 2,
    "clock step": 3,
    "broken drop-in": 4,
    "link": 4,
    "bad config": 2,
}
"""How often each kind comes in a deck of a long run."""
LASTS_S = {"full disk": (2.0, 8.0), "broken drop-in": (2.0, 15.0), "link": (1.0, 10.0)}


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just died of an earlier fault
        os.kill(pid, signum)


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _stuff(file: Path) -> None:
    """Take all the room that is left, twice: what is given up in between is taken, too."""
    for _ in range(2):
        with contextlib.suppress(OSError), file.open("ab", buffering=0) as out:
            room = os.fstatvfs(out.fileno())
            step = room.f_bavail * room.f_frsize
            while step >= BLOCK_BYTES:
                try:
                    os.posix_fallocate(out.fileno(), os.fstat(out.fileno()).st_size, step)
                except OSError:  # not so much is left
                    step //= 2
        time.sleep(LOOK_S)  # noqa: TID251 - the daemon's answer to a full disk comes in between
