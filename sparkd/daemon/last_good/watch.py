"""Watching a change prove itself, and taking it back if a critical service fails by it.

Theory of operation. Whatever brings the services in line with plugins and config (start, reload, a changed drop-in)
rings here. If the operator's disk then holds another version than the good one, it is on trial for as long as its
critical services ask (`health_window_s`). If one of them fails in that time by its own fault, the version is taken
back: the state is noted on disk first, then config and drop-ins are read again, now from the good version. The
operator's files are never written: they stay as they are, out of force, until they change again or are accepted. If all
critical services run through the window, the version is the good one. A version is taken back once; what fails after
that is told, and left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from sparkd.core_interfaces import RollBack
from sparkd.daemon.last_good.shelf import Shelf, Taken, Version
from sparkd.events import RolledBack
from sparkd.redact import Redactor, secrets_of
from sparkd.registry import FailureKind
from sparkd.states import State
from sparkd.supervisor import Supervised
from sparkd.supervisor.policy import EndKind

if TYPE_CHECKING:
    from sparkd.daemon.core import Core

OWN_FAULT = (EndKind.FAILED, EndKind.MISCONFIGURED)
FAILING = (State.BACKOFF, State.BROKEN)
NOT_ITS_FAULT = (FailureKind.MISSING, FailureKind.UNAVAILABLE, FailureKind.PENDING)
TOPIC = "system.health.rollback"
AGAIN_S = 5.0
"""After a version or the state could not be written: a full disk, say."""
KEEPING = "keeping the last good"


@dataclass(slots=True)
class _Trial:
    """A version that has to prove itself."""

    version: Version
    until: float
    excused: frozenset[str]
    """Services that failed before the change: they say nothing about it."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why each critical service failed that did."""


class LastGood:
    """Keeps the last good version, and goes back to it."""

    def __init__(self, core: Core, shelf: Shelf) -> None:
        """Judge the changes of *core*."""
        self._core, self._shelf = core, shelf
        self._trial: _Trial | None = None
        self._bell = anyio.Event()
        self._failing: dict[str, float] = {}
        self._changing_since = 0.0
        self._loaded: dict[str, str] = {}
        self._blamed: str | None = None

    def on_config(self, version: Version) -> None:
        """Hear which version's config is about to be loaded."""
        self._loaded = version.config_sums

    def on_syncing(self) -> None:
        """Hear that plugins and config are about to be read: what fails by now does not fail by the change."""
        self._changing_since = time.monotonic()

    def on_synced(self) -> None:
        """Hear that they were read."""
        self._bell.set()

    def on_service_change(self, service: Supervised) -> None:
        """Hear what became of a service."""
        own = service.state in FAILING and service.end.kind in OWN_FAULT
        if own and service.plan.critical and self._trial is not None and service.name not in self._trial.excused:
            self._trial.failed.setdefault(service.name, service.end.reason)
            self._bell.set()
        if service.state in FAILING:
            self._failing.setdefault(service.name, time.monotonic())
        elif service.state in (State.RUNNING, State.DEGRADED):
            self._failing.pop(service.name, None)

    async def watch(self) -> None:
        """Judge each change, until cancelled."""
        while True:
            wait_s = max(self._trial.until - time.monotonic(), 0.0) if self._trial else float("inf")
            with anyio.move_on_after(wait_s):
                await self._bell.wait()
            self._bell = anyio.Event()
            try:
                await self._look()
            except OSError as error:
                self._core.problems[KEEPING] = (
                    f"the last good config cannot be kept: {error}; see space and rights of {self._shelf.folder}"
                )
                await anyio.sleep(AGAIN_S)
                self._bell.set()  # nobody else would ring: the change was told already
            else:
                self._core.problems.pop(KEEPING, None)

    async def accept(self) -> None:
        """Go by what is on disk, whatever comes of it. Raises ConfigError if it cannot be used."""
        version = await to_thread.run_sync(self._shelf.on_disk)
        await to_thread.run_sync(self._shelf.keep, version)
        await self._note(Taken(good=self._shelf.taken.good, accepted=version.name))
        await self._core.reload()

    async def told(self) -> RollBack | None:
        """Return what was taken back and is still on disk; None if the disk's version is in force."""
        taken = self._shelf.taken
        if not taken.bad:
            return None
        difference = await to_thread.run_sync(self._shelf.difference, taken.good, taken.bad)
        secrets = await to_thread.run_sync(secrets_of, self._core.config, self._core.places)
        return RollBack(
            service=taken.service,
            reason=taken.reason,
            at=taken.at,
            kept=str(self._shelf.versions / taken.bad),
            in_force=str(self._shelf.versions / taken.good),
            difference=Redactor(secrets).text(difference),
        )

    async def _look(self) -> None:
        version = await to_thread.run_sync(self._shelf.on_disk)
        taken = self._shelf.taken
        if taken.bad:
            await self._look_taken_back(version)
        elif version.name in (taken.good, taken.accepted):
            self._trial = None
            if version.name != taken.good:
                await self._note(Taken(good=version.name, accepted=version.name))
        elif self._trial is None or self._trial.version.name != version.name:
            await self._begin(version)
        else:
            await self._judge(self._trial)

    async def _look_taken_back(self, version: Version) -> None:
        taken = self._shelf.taken
        if version.name != taken.bad:  # the operator has changed something: it gets a trial of its own
            self._tell("")
            await self._note(Taken(good=taken.good, accepted=taken.accepted))
            await self._read_again()
            return
        self._say_it(taken)

    async def _begin(self, version: Version) -> None:
        await to_thread.run_sync(self._shelf.keep, version)
        excused = frozenset(name for name, since in self._failing.items() if since < self._changing_since)
        self._trial = _Trial(version, time.monotonic() + self._window_s(), excused)
        await self._judge(self._trial)

    def _notice_what_failed_already(self, trial: _Trial) -> None:
        """Take what failed between the change and the beginning of its trial."""
        for service in self._core.supervisor.services.values():
            own = service.state in FAILING and service.end.kind in OWN_FAULT
            if own and service.plan.critical and service.name not in trial.excused:
                trial.failed.setdefault(service.name, service.end.reason)
        tables = self._core.config.plugins
        for source, failure in self._core.plugins.failures():
            critical = source.name in tables and tables[source.name].critical
            if critical and failure.kind not in NOT_ITS_FAULT:
                trial.failed.setdefault(source.name, failure.message)

    async def _judge(self, trial: _Trial) -> None:
        self._notice_what_failed_already(trial)
        if trial.failed:
            await self._take_back(trial)
        elif time.monotonic() >= trial.until:
            if trial.version.config_sums != self._loaded:  # edited, and not reloaded: nobody has run by it yet
                self._trial = None
            elif self._all_ran():
                self._trial = None
                await self._note(Taken(good=trial.version.name))
                self._core.log.info("config and drop-ins are known to be good", version=trial.version.name)
            else:  # one waits for a device, say: nothing is known yet
                trial.until = time.monotonic() + self._window_s()

    def _all_ran(self) -> bool:
        """Whether every critical service runs, or was told not to; a plugin that cannot be read has none to ask."""
        tables = self._core.config.plugins
        unread = {source.name for source, _ in self._core.plugins.failures()}
        unread |= {plugin.name for plugin in self._core.plugins.absent()}
        if any(tables[name].critical for name in unread & tables.keys()):
            return False
        services = [service for service in self._core.supervisor.services.values() if service.plan.critical]
        resting = (State.STOPPED, State.DISABLED, State.SHED)
        return all(service.state in (State.RUNNING, State.DEGRADED, *resting) for service in services)

    def _window_s(self) -> float:
        tables = self._core.config.plugins.values()
        return max((table.health_window_s for table in tables if table.critical), default=0.0)

    async def _take_back(self, trial: _Trial) -> None:
        service, reason = next(iter(trial.failed.items()))
        good = self._shelf.taken.good
        if not good or not (self._shelf.versions / good).is_dir():
            self._blame(trial.version.name, f"{service} fails ({reason}), and no earlier version is known to be good")
            trial.failed.clear()  # it may yet come to run, and then for a whole window
            trial.until = time.monotonic() + self._window_s()
            return
        self._trial = None
        taken = Taken(good=good, bad=trial.version.name, at=time.time(), service=service, reason=reason)
        await self._note(taken)
        self._core.log.error("change taken back", service=service, why=reason, good=good, bad=trial.version.name)
        self._core.publish(RolledBack(service=service, reason=reason, version=trial.version.name, good=good), TOPIC)
        self._say_it(taken)
        await self._read_again()

    async def _read_again(self) -> None:
        """Bring config and services in line with the version that is in force now."""
        try:
            await self._core.reload()
        except Exception as error:
            self._core.log.error("last good: cannot read again", exc_info=error)  # noqa: TRY400 - our own log
            self._core.problems["reload"] = f"config and drop-ins could not be read again: {error}"

    async def _note(self, taken: Taken) -> None:
        await to_thread.run_sync(self._shelf.note, taken)

    def _say_it(self, taken: Taken) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(taken.at))
        text = (
            f"the last change was taken back at {when}: {taken.service} failed by it ({taken.reason}); the last good "
            f"version is in force, not what is on disk"
        )
        failing = sorted(name for name in self._failing if self._is_critical(name))
        if failing:
            text += f"; {', '.join(failing)} fails by the good version too"
        self._tell(f"{text}. See sparkctl config changes; mend the files, or sparkctl config accept")

    def _is_critical(self, name: str) -> bool:
        service = self._core.supervisor.services.get(name)
        return service is not None and service.plan.critical

    def _blame(self, version: str, text: str) -> None:
        if self._blamed != version:
            self._blamed = version
            self._core.log.warning("nothing to go back to", why=text)

    def _tell(self, problem: str) -> None:
        self._core.problems.pop("last good", None)
        if problem:
            self._core.problems["last good"] = problem
