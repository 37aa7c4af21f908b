"""The processes of all services over time: what each has used since the look before. Blocks: not for the event loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sparkd.recorder import tcp
from sparkd.recorder.proc import Look, Process, Spent, beneath, pss_of

CORE, ZYGOTE = "core", "zygote"
WALK_S = 10.0
"""How often the processes beneath a service are looked for."""
TCP_S = 5.0
PSS_S = 60.0
PATIENCE_LOOKS = 3
"""How often what the zygote took over waits for the service it belongs to."""
_EVENTS = ("major_faults", "switches", "preempted")


@dataclass
class Group:
    """The processes of one service."""

    root: int
    counted: Spent | None = None
    """What the sum was at the look before; None: what came before is not counted."""
    processes: dict[int, Process] = field(default_factory=dict)
    last: dict[int, Look] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    sockets: dict[int, int] = field(default_factory=dict)
    """Bytes acknowledged on each of its TCP connections when it was asked last."""

    def look(self) -> None:
        """Look at every process; those that are gone are forgotten, but for the last look at the service's own."""
        for pid in {self.root, *self.processes}:
            try:
                if pid not in self.processes:
                    self.processes[pid] = Process(pid)
                self.last[pid] = self.processes[pid].look()
            except (OSError, IndexError, ValueError):
                self._drop(pid)

    def follow(self, pids: set[int]) -> None:
        """Look at *pids* from now on."""
        for pid in pids - set(self.processes) - {self.root}:
            try:
                self.processes[pid] = Process(pid)
            except OSError:
                continue

    def _drop(self, pid: int) -> None:
        if pid in self.processes:
            self.processes.pop(pid).close()
        if pid != self.root:
            self.last.pop(pid, None)

    def close(self) -> None:
        """Close the files."""
        for pid in list(self.processes):
            self._drop(pid)

    def spent(self) -> Spent:
        """Return what the processes and the children they waited for have spent."""
        return sum((look.spent for look in self.last.values()), Spent())

    def gauges(self) -> dict[str, int]:
        """Return what holds now."""
        there = [self.last[pid] for pid in self.processes if pid in self.last]
        return {
            "rss": sum(look.rss for look in there),
            "threads": sum(look.threads for look in there),
            "fds": sum(look.fds for look in there),
            "processes": len(there),
        }

    def since(self) -> dict[str, int]:
        """Return what was added since the look before."""
        spent, before = self.spent(), self.counted
        self.counted = spent
        if before is None:
            return self.events_since(count=False)
        return (spent - before).counts() | self.events_since()

    def events_since(self, *, count: bool = True) -> dict[str, int]:
        """Return how many of the countable events came since the look before."""
        now = {name: sum(getattr(look, name) for look in self.last.values()) for name in _EVENTS}
        before, self.events = self.events, now
        return {name: max(now[name] - before.get(name, 0), 0) if count else 0 for name in _EVENTS}


@dataclass
class Estate:
    """What the zygote took over of ended children, until it is known whose it was.

    The kernel adds what a child has spent to who waits for it. What a service had shown of it before its end is taken
    off; the rest is what it spent after its last look. Reading the zygote and hearing of an end are not one moment, so
    either may wait for the other a little.
    """

    open: Spent = field(default_factory=Spent)
    heirs: list[str] = field(default_factory=list)
    looks: int = 0
    before: Spent | None = None

    def settle(self, taken_over: Spent, ended: Mapping[str, Spent]) -> tuple[str, Spent]:
        """Return whose what is, once it is known: a service's, or the zygote's own."""
        self.open += taken_over - (self.before or taken_over)
        self.before = taken_over
        for name, shown in ended.items():
            self.open -= shown
            self.heirs.append(name)
        self.looks += 1
        settled = bool(self.heirs) and self.open.is_whole
        if self.open == Spent() and not self.heirs:
            self.looks = 0
        elif settled or self.looks > PATIENCE_LOOKS:
            found = (self.heirs[0] if self.heirs else ZYGOTE, self.open)
            self.open, self.heirs, self.looks = Spent(), [], 0
            return found
        return ZYGOTE, Spent()


class Watch:
    """Looks at everything, once a second."""

    def __init__(self, *, core: int, zygote: int) -> None:
        """Count for the core and the zygote from now on."""
        self._groups = {CORE: Group(core), ZYGOTE: Group(zygote)}
        self._estate = Estate()
        self._zygote_cpu_us: int | None = None
        self._walked = self._asked = self._weighed = float("-inf")
        self._pss: dict[str, int] = {}
        self._to_weigh: list[str] = []
        self.tcp_problem = ""
        """Why the kernel does not count TCP; nothing if it does."""

    def close(self) -> None:
        """Close all files."""
        for group in self._groups.values():
            group.close()

    def look(self, pids: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """Return what the kernel knows of the core, the zygote and each service in *pids*, by column.

        A service that has ended since, or runs as another process now, gets what the old one had still spent.
        """
        now = time.monotonic()
        ended = self._ended(pids)
        for name, pid in pids.items():
            self._groups.setdefault(name, Group(pid, counted=Spent()))
        if now - self._walked >= WALK_S:
            self._walk(now)
        found: dict[str, dict[str, int]] = {}
        for name, group in self._groups.items():
            group.look()
            found[name] = group.gauges()
            found[name] |= group.since() if name != ZYGOTE else self._zygote(group)
        taken_over = self._taken_over()
        if taken_over is not None:
            heir, rest = self._estate.settle(taken_over, ended)
            add(found.setdefault(heir, {}), rest.counts())
        if now - self._asked >= TCP_S:
            self._ask_tcp(now, found)
        self._weigh(now, found)
        return found

    def _ended(self, pids: Mapping[str, int]) -> dict[str, Spent]:
        """Forget the services whose process is not there any more; return what each had shown of what it spent."""
        ended = {}
        for name in [name for name in self._groups if name not in (CORE, ZYGOTE)]:
            group = self._groups[name]
            if pids.get(name) != group.root:
                own = group.last.get(group.root)
                ended[name] = own.spent if own else Spent()
                group.close()
                del self._groups[name]
                self._pss.pop(name, None)
        return ended

    def _zygote(self, group: Group) -> dict[str, int]:
        look = group.last.get(group.root)
        if look is None:
            return {}
        before, self._zygote_cpu_us = self._zygote_cpu_us, look.own_cpu_us
        return {
            "cpu_us": look.own_cpu_us - before if before is not None else 0,
            **group.events_since(count=before is not None),
        }

    def _taken_over(self) -> Spent | None:
        group = self._groups[ZYGOTE]
        look = group.last.get(group.root)
        return None if look is None else look.spent - Spent(cpu_us=look.own_cpu_us)

    def _walk(self, now: float) -> None:
        self._walked = now
        services = {name: group for name, group in self._groups.items() if name not in (CORE, ZYGOTE)}
        below = beneath(group.root for group in services.values())
        for group in services.values():
            group.follow(below.get(group.root, set()))

    def _ask_tcp(self, now: float, found: dict[str, dict[str, int]]) -> None:
        self._asked = now
        try:
            counts = tcp.acknowledged()
        except OSError as error:
            self.tcp_problem = error.strerror or str(error)
            return
        self.tcp_problem = ""
        for name, group in self._groups.items():
            held = {one: counts[one] for one in tcp.sockets_of(group.processes) if one in counts} if counts else {}
            sent = sum(max(count - group.sockets.get(one, 0), 0) for one, count in held.items())
            group.sockets = held
            if sent:
                add(found[name], {"tcp": sent})

    def _weigh(self, now: float, found: dict[str, dict[str, int]]) -> None:
        """Weigh one service at a look, each about once a minute: the kernel walks all its pages for it."""
        if not self._to_weigh and now - self._weighed >= PSS_S:
            self._to_weigh, self._weighed = list(self._groups), now
        if self._to_weigh:
            name = self._to_weigh.pop(0)
            if name in self._groups:
                self._pss[name] = sum(pss_of(pid) or 0 for pid in self._groups[name].processes)
        for name, pss in self._pss.items():
            if name in found:
                found[name]["pss"] = pss


def add(columns: dict[str, int], more: Mapping[str, int]) -> None:
    """Add *more* to the counters in *columns*."""
    for name, value in more.items():
        columns[name] = columns.get(name, 0) + value
