"""The service: find the interfaces and their peers, keep one watch over each."""

from __future__ import annotations

from functools import partial

import anyio
from anyio.abc import TaskGroup, TaskStatus

from sparkd import Context, DeviceError, Troubles, Tunnel

from . import netwatch
from .access import choose_access
from .answers import Answers
from .clock import Clock, ClockWatch
from .config import PeerConfig, VpnWatchdogConfig
from .figures import Figures
from .interface import WatchedInterface
from .ladder import Ladder, Limits
from .memory import Memory
from .mending import RESTART_AGAIN_S, Mending
from .modes import Modes
from .names import Names
from .parts import Parts
from .peer import PeerWatch
from .public_name import PublicName
from .repairs import Target, restart_interface
from .seen_by import seen_by
from .states import TunnelState
from .wg import name_of

JUST_LOST_S = 30.0
"""So long after a loss, what it may have to do with the address of this home is looked at oftener."""


async def run(ctx: Context[VpnWatchdogConfig], *, task_status: TaskStatus[None]) -> None:
    """Watch until cancelled. A tunnel that does not work, or an interface that is not there, is a state."""
    await watch(ctx, clock=Clock(), task_status=task_status)


async def watch(ctx: Context[VpnWatchdogConfig], *, clock: Clock, task_status: TaskStatus[None]) -> None:
    """Watch by *clock*, which a test may set."""
    dog = Watchdog(_parts(ctx, clock))
    await dog.parts.memory.load()
    await ctx.serve(Tunnel, Answers(dog))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dog.parts.modes.follow, ctx, dog.hurry)
        tasks.start_soon(dog.follow_network)
        if dog.public_name is not None:
            tasks.start_soon(dog.public_name.run)
        for iface in dog.interfaces:
            tasks.start_soon(dog.keep, iface, tasks)
        task_status.started()


def _parts(ctx: Context[VpnWatchdogConfig], clock: Clock) -> Parts:
    config = ctx.config
    return Parts(
        ctx=ctx,
        wg=choose_access(ctx),
        clock=ClockWatch(clock, config.clock_step_s),
        names=Names(config.resolver),
        memory=Memory(ctx.state_dir / "tunnels.json"),
        modes=Modes(ctx.node, ctx.site),
        figures=Figures(ctx.metrics),
        troubles=Troubles(ctx),
    )


def _public_name(parts: Parts) -> PublicName | None:
    """Return who keeps the public name, if there is one to keep."""
    config = parts.config.public_name
    if not config.name:
        return None
    return PublicName(
        ctx=parts.ctx, config=config, clock=parts.clock.clock, troubles=parts.troubles, seen_by=partial(seen_by, parts)
    )


class Watchdog:
    """All interfaces and peers of this machine."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.interfaces = [WatchedInterface(parts, name) for name in parts.config.interfaces]
        self.mending = Mending(self._peers_of)
        self.public_name = _public_name(parts)
        self._watches: dict[tuple[str, str], PeerWatch] = {}
        """By interface and key."""

    def all(self) -> list[PeerWatch]:
        """Return every watch, by name."""
        return sorted(self._watches.values(), key=lambda one: one.name)

    def hurry(self) -> None:
        """Have every peer looked at now, and what was found out about it forgotten."""
        if self.public_name is not None:
            self.public_name.hurry.set()
        for one in self._watches.values():
            one.news()

    async def follow_network(self) -> None:
        """Hurry whenever a link, an address or a route changes; without that, the interval is soon enough."""
        try:
            await netwatch.follow(self.hurry)
        except DeviceError as error:
            self.parts.ctx.log.warning("tunnel-netlink", why=str(error))

    def _peers_of(self, iface: WatchedInterface) -> list[PeerWatch]:
        return [one for one in self._watches.values() if one.iface is iface]

    async def keep(self, iface: WatchedInterface, tasks: TaskGroup) -> None:
        """Read *iface* at the interval, and keep a watch over each of its peers."""
        config = self.parts.config
        limits = Limits(
            steps=tuple(config.steps),
            per_hour=config.repairs_per_hour,
            backoff_s=config.backoff_s,
            backoff_most_s=config.backoff_most_s,
        )
        ladder = Ladder(limits)
        while True:
            self.parts.clock.look()
            snapshot = await iface.look(max_age_s=self.parts.fresh_s)
            for key in snapshot.readings:
                self._begin(iface, key, tasks)
            self._wake(iface)
            self._miss()
            if iface.error:
                await self._bring_back(iface, ladder)
            else:
                ladder.over()
            await anyio.sleep(config.interval_s)

    def _miss(self) -> None:
        """Say which peers of the config are on no interface, once all could be read."""
        if any(iface.error or not iface.seen for iface in self.interfaces):
            return
        there = {key for iface in self.interfaces for key in iface.snapshot.readings}
        for name, config in self.parts.config.peers.items():
            if config.public_key in there:
                self.parts.troubles.over(f"config {name}")
            else:
                reason = f"{name} is not a peer of {', '.join(self.parts.config.interfaces)}"
                self.parts.troubles.say(
                    f"config {name}", reason, f"look at public_key in [plugins.vpn-watchdog.peers.{name}]"
                )

    def _begin(self, iface: WatchedInterface, key: str, tasks: TaskGroup) -> None:
        if (iface.name, key) not in self._watches:
            name, config = self._named(key)
            made = PeerWatch(self.parts, iface, name, key, config)
            self._watches[iface.name, key] = made
            tasks.start_soon(self._watch, made)

    def _named(self, key: str) -> tuple[str, PeerConfig | None]:
        for name, config in self.parts.config.peers.items():
            if config.public_key == key:
                return name, config
        return name_of(key), None

    async def _watch(self, made: PeerWatch) -> None:
        try:
            await made.run(self._tend)
        finally:
            self._watches.pop((made.iface.name, made.key), None)
            self.parts.troubles.over(f"peer {made.name}")

    async def _tend(self, made: PeerWatch) -> bool:
        await self._check_keepalive(made)
        lost = made.state is TunnelState.DOWN and self.parts.now() - made.since_mono < JUST_LOST_S
        if lost and self.public_name is not None:
            self.public_name.hurry.set()
        if made.link is not None and made.state is TunnelState.UP and made.answering:
            await made.link.measure(made.name)
        return await self.mending.tend(made)

    def _wake(self, iface: WatchedInterface) -> None:
        """Have a peer that was lost looked at as soon as something comes from it."""
        for one in self._peers_of(iface):
            reading = iface.reading(one.key)
            if reading is not None and one.state is not TunnelState.UP and reading.received > one.track.received:
                one.hurry.set()

    async def _check_keepalive(self, made: PeerWatch) -> None:
        config = self.parts.config
        if made.diagnosis.word != "keepalive" or not config.set_keepalive:
            return
        try:
            said = await self.parts.wg.set_keepalive(made.iface.name, made.key, config.keepalive_s)
        except DeviceError as error:
            self.parts.ctx.log.warning("tunnel-keepalive", peer=made.name, why=str(error))
        else:
            self.parts.ctx.log.info("tunnel-keepalive", peer=made.name, done=said)
            await made.iface.forget_settings()

    async def _bring_back(self, iface: WatchedInterface, ladder: Ladder) -> None:
        """Have an interface started that never came up; one that somebody took down is left alone."""
        now = self.parts.now()
        wanted = not iface.seen or iface.vanished_by_us
        if not (wanted and self.parts.config.repair) or now - iface.restarted_at < RESTART_AGAIN_S:
            return
        if ladder.next(now, "interface-missing", hindrance=lambda _: "").step != "restart-interface":
            return
        target = Target(parts=self.parts, iface=iface, key="", endpoint="", name="")
        try:
            said = (await restart_interface(target)).detail
        except DeviceError as error:
            said = str(error)
        await iface.forget_settings()
        await iface.look()
        ladder.note("restart-interface", helped=not iface.error, now=now)
        self.parts.ctx.log.warning("tunnel-interface", interface=iface.name, back=not iface.error, detail=said)
