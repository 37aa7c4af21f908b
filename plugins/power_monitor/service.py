"""The service: from what sources say to the mode, and from the mode to what is done.

One task for each source, one that reckons the mode whenever there is news or time is up, one that hears the site's
other nodes, one that does what the mode asks for, one that says samples, one that accounts energy. Nothing polls: the
reckoning waits for news and for the moments it knows of (a debounce that ends, a source that becomes stale).
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus

from sparkd import (
    CallError,
    Context,
    Power,
    PowerAction,
    PowerMode,
    PowerSample,
    PowerStatus,
    Privacy,
    ServiceChanged,
    StorageError,
    Troubles,
)

from .acting import RETRY_S, SELF, Actor, Journal
from .answers import Answers
from .choose import Picture, choose
from .config import PowerMonitorConfig
from .endurance import Endurance, load_watts
from .figures import Figures
from .meter import EnergyMeter
from .modes import SEVERITY, Mode, Modes, worse
from .policy import back, wanted
from .recording import Recorder
from .shutting import Shutting
from .site import Site
from .sources import Sources
from .waking import Waking

SITE_TOPIC = "system.power.mode.site"


async def run(ctx: Context[PowerMonitorConfig], *, task_status: TaskStatus[None]) -> None:
    """Watch, say and act until cancelled. No source that fails ends it."""
    monitor = Monitor(ctx)
    async with anyio.create_task_group() as tasks:
        meter = EnergyMeter(
            ctx,
            monitor.watts,
            interval_s=ctx.config.energy_interval_s,
            file=ctx.state_dir / "energy.json",
            units=ctx.config.energy_units,
        )
        await ctx.serve(Power, Answers(ctx, monitor, meter))
        tasks.start_soon(meter.run)
        tasks.start_soon(monitor.sources.run)
        tasks.start_soon(monitor.reckon)
        tasks.start_soon(monitor.hear_site)
        tasks.start_soon(monitor.act, tasks)
        tasks.start_soon(monitor.say)
        tasks.start_soon(monitor.sample)
        tasks.start_soon(monitor.notice_services)
        if ctx.config.record:
            tasks.start_soon(monitor.record, Path(ctx.config.record))
        task_status.started()


class Monitor:
    """What is known of this node's power, and what becomes of it."""

    def __init__(self, ctx: Context[PowerMonitorConfig]) -> None:
        config = ctx.config
        self._ctx = ctx
        self._troubles = Troubles(ctx)
        self._figures = Figures(ctx.metrics)
        self._news, self._turned = anyio.Event(), anyio.Event()
        self.sources = Sources(
            ctx,
            config.sources(),
            stale_after_s=config.stale_after_s,
            changed=self._on_news,
            on_garbage=self._figures.garbage,
            troubles=self._troubles,
        )
        self._modes = Modes(config.modes)
        self._site = Site(config.site_stale_s)
        self._endurance = Endurance()
        self._picture = Picture()
        self._runtime_s: float | None = None
        self.mode, self.reason, self.since = Mode.UNKNOWN, "nobody has said anything yet", time.time()
        self._entered: dict[Mode, float] = {}
        """Since when (monotonic) it has been this mode or a worse one."""
        self._held: tuple[Mode, float] | None = None
        self._journal = Journal(ctx, self._figures.acted)
        self._actor = Actor(ctx, self._journal, self._troubles)
        self._shutting = Shutting(ctx, self._journal, self._troubles)
        self._waking = Waking(ctx, self._journal, self._shutting.asked_off)

    def _on_news(self) -> None:
        self._news.set()

    # From what sources say to the mode

    async def reckon(self) -> None:
        """Reckon the mode at every news, and whenever time alone changes it."""
        while True:
            self._news = anyio.Event()
            now = anyio.current_time()
            self._look(now)
            due = self._due(now)
            with anyio.move_on_after(math.inf if due is None else max(due - now, 0.01)):
                await self._news.wait()

    def _look(self, now: float) -> None:
        self._picture = choose(self.sources.held(), self._ctx.config.order, now)
        self._endurance.hear(self._picture, now)
        lasts = self._endurance.estimate(self._picture)
        self._runtime_s = None if lasts is None else lasts.seconds
        for change in self._modes.hear(self._picture, now, runtime_s=self._runtime_s):
            self._ctx.log.info("own power mode", mode=str(change.mode), before=str(change.before), why=change.reason)
        if self._ctx.config.speaks_for_site:
            self._site.hear(self._ctx.node, self._modes.mode, now)
        self.sources.look(now)
        self._settle(now)
        self._figures.show(self.mode, self._picture, self.sources.status())

    def _settle(self, now: float) -> None:
        """Take the worse of this node's own mode and the site's, or what an operator holds."""
        site, by = self._site.mode(now)
        mode = worse(self._modes.mode, site)
        reason = self._modes.reason if mode is self._modes.mode else f"{by} says so for the site"
        if self._held is not None and now < self._held[1]:
            mode, reason = self._held[0], "held by an operator"
        else:
            self._held = None
        if mode is not self.mode:
            self._ctx.log.info("power mode", mode=str(mode), before=str(self.mode), why=reason)
            self.mode, self.since = mode, time.time()
            self._enter(now)
            self._turn()
        self.reason = reason

    def _enter(self, now: float) -> None:
        if self.mode not in SEVERITY:
            return
        reached = SEVERITY[: SEVERITY.index(self.mode) + 1]
        self._entered = {mode: self._entered.get(mode, now) for mode in reached}

    def _turn(self) -> None:
        self._turned.set()
        self._turned = anyio.Event()  # whoever waits holds the old one; the next to wait looks first

    def _due(self, now: float) -> float | None:
        held = None if self._held is None else self._held[1]
        dues = (self._modes.due, self.sources.due(now), self._site.due(now), held)
        return min((due for due in dues if due is not None), default=None)

    async def hear_site(self) -> None:
        """Take what other nodes say of the site."""
        async with self._ctx.bus.subscribe(PowerMode, topic=SITE_TOPIC) as news:
            for received in await self._ctx.bus.retained(PowerMode, topic=SITE_TOPIC):
                self._on_site(received)
            async for received in news:
                self._on_site(received)

    def _on_site(self, received: Any) -> None:
        said, header = received.event, received.header
        # Only nodes of this site can send what is `local`: a word that may travel further could be from anywhere.
        if said.scope != "site" or said.name != self._ctx.site or header.privacy > Privacy.LOCAL:
            return
        if header.node != self._ctx.node and self._site.hear(header.node, said.mode, anyio.current_time()):
            self._on_news()

    # From the mode to what is said and done

    async def say(self) -> None:
        """Say the mode at every change, and at an interval for those who listen late."""
        while True:
            turned = self._turned
            await self._ctx.bus.publish(
                PowerMode(mode=self.mode, scope="node", name=self._ctx.node, reason=self.reason)
            )
            if self._ctx.config.speaks_for_site:
                site = PowerMode(mode=self._modes.mode, scope="site", name=self._ctx.site, reason=self._modes.reason)
                await self._ctx.bus.publish(site, topic=SITE_TOPIC)
            with anyio.move_on_after(self._ctx.config.say_interval_s):
                await turned.wait()

    async def act(self, tasks: TaskGroup) -> None:
        """Do what the mode asks for, whenever it turns, and when more of it comes due."""
        due: float | None = None
        """When to wake others; infinite once that is done."""
        while True:
            turned = self._turned
            pause_s = await self._act(tasks, turned)
            if self.mode is not Mode.ON_GRID or not self._ctx.config.wake:
                self._waking.cancel()
                due = None
            elif due is None:
                due = anyio.current_time() + self._ctx.config.wake_after_s
            elif anyio.current_time() >= due:
                due = math.inf
                tasks.start_soon(self._waking.run)
            left_s = math.inf if due is None else max(due - anyio.current_time(), 0.0)
            with anyio.move_on_after(min(pause_s, left_s)):
                await turned.wait()

    async def _act(self, tasks: TaskGroup, turned: anyio.Event) -> float:
        try:
            asked = await self._actor.apply(self.mode, self._lasted(), self.reason, turned=turned)
        except CallError as error:
            self._ctx.log.warning("power policy not applied", why=str(error))
            return RETRY_S
        if asked is None:
            return math.inf
        if asked.shutdown and not self._shutting.under_way:
            tasks.start_soon(self._shutting.go, self.mode, self.reason)
        elif not asked.shutdown:
            await self._shutting.cancel(self.mode)
        pauses = (asked.next_s, self._actor.retry_s)
        return min((pause for pause in pauses if pause is not None), default=math.inf)

    def _lasted(self) -> dict[Mode, float]:
        now = anyio.current_time()
        lasted = {mode: now - since for mode, since in self._entered.items()}
        return dict.fromkeys(lasted, math.inf) if self._picture.ending else lasted

    async def sample(self) -> None:
        """Say the chosen values at an interval."""
        privacy = Privacy[self._ctx.config.privacy.upper()]
        while True:
            await anyio.sleep(self._ctx.config.sample_interval_s)
            values = self._picture.values
            if not values:
                continue
            event = PowerSample(
                mode=self.mode,
                values={name: one.value for name, one in values.items()},
                sources={name: one.source for name, one in values.items()},
                time_to_empty_s=self._runtime_s,
            )
            try:
                await self._ctx.bus.publish(event, privacy=privacy)
            except StorageError as error:
                self._troubles.say("samples", f"power samples cannot be stored: {error}", "make room on the disk")
            else:
                self._troubles.over("samples")

    async def record(self, file: Path) -> None:
        """Append what is measured to a recording, at the interval of the samples."""
        recorder: Recorder | None = None
        begun = anyio.current_time()
        try:
            while True:
                await anyio.sleep(self._ctx.config.sample_interval_s)
                values: dict[str, object] = {name: one.value for name, one in self._picture.values.items()}
                values |= {"mains": self._picture.mains, "battery_low": bool(self._picture.battery_low)}
                try:
                    if recorder is None:
                        recorder = await anyio.to_thread.run_sync(Recorder, file)
                    await anyio.to_thread.run_sync(recorder.write, anyio.current_time() - begun, values)
                except OSError as error:
                    self._troubles.say("record", f"{file}: {error.strerror}", "make room, or mend the key record")
                else:
                    self._troubles.over("record")
        finally:
            if recorder is not None:
                recorder.close()

    async def notice_services(self) -> None:
        """Look at the policy again when a service appears that was not there when it was applied."""
        async with self._ctx.bus.subscribe(ServiceChanged) as changes:
            async for change in changes:
                if change.header.node == self._ctx.node and change.event.service not in self._actor.known:
                    self._turn()

    # What is asked and told

    def status(self) -> PowerStatus:
        """Return modes, values, sources and what was done."""
        site, _ = self._site.mode(anyio.current_time())
        return PowerStatus(
            node=self._ctx.node,
            site=self._ctx.site,
            mode=self.mode,
            site_mode=site,
            since=self.since,
            reason=self.reason,
            held=self._held is not None,
            dry_run=self._ctx.config.dry_run,
            values=dict(self._picture.values),
            time_to_empty=self._endurance.estimate(self._picture),
            sources=self.sources.status(),
            conflicts=list(self._picture.conflicts),
            actions=list(self._journal.last),
        )

    def watts(self) -> float | None:
        """Return what the node uses now; None if nobody measures it."""
        return load_watts(self._picture)

    def hold(self, mode: Mode | None, seconds: float = 0.0) -> None:
        """Keep *mode* for so long, whatever the sources say; with None go by the sources again."""
        self._held = None if mode is None else (mode, anyio.current_time() + seconds)
        self._settle(anyio.current_time())
        self._on_news()

    async def plan(self, mode: Mode) -> list[PowerAction]:
        """Return what would be done now in *mode*. Raises CallError if the core does not answer."""
        services = await self._actor.services()
        policies = self._ctx.config.policies()
        asked = wanted(mode, dict.fromkeys(SEVERITY, math.inf), policies, services)
        if asked is None:
            return []
        resting = [one.name for one in services if one.shed and one.by == SELF]
        shed = [("shed", name, "") for name in asked.shed if name not in resting]
        slow = [("throttle", name, f"{percent:g} % of a processor") for name, percent in asked.throttle.items()]
        again = [("restore", name, "") for name in back([n for n in resting if n not in asked.shed], services)]
        off = [("shutdown", self._ctx.node, asked.shutdown)] if asked.shutdown else []
        return [
            PowerAction(action=action, target=target, mode=mode, state="planned", reason=reason)
            for action, target, reason in (*shed, *slow, *again, *off)
        ]
