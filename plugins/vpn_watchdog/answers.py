"""`tunnel`: what others may ask of the watchdog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from sparkd import REPAIR_STEPS, CallError, CallErrorKind, PeerStatus, RepairRecord, TunnelStatus

from .ladder import TELL
from .peer import PeerWatch
from .report import status_of

if TYPE_CHECKING:
    from .service import Watchdog


class Answers:
    """Serves `sparkd.Tunnel`."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._dog = watchdog

    async def status(self) -> TunnelStatus:
        """Return the interfaces and all peers."""
        parts = self._dog.parts
        return TunnelStatus(
            node=parts.ctx.node,
            via=parts.wg.via,
            repairing=parts.config.repair,
            interfaces={iface.name: iface.error for iface in self._dog.interfaces},
            peers=await self.peers(),
            public_name=self._dog.public_name.status() if self._dog.public_name is not None else None,
        )

    async def peers(self) -> list[PeerStatus]:
        """Return how each peer is."""
        return [status_of(watch) for watch in self._dog.all()]

    async def repairs(self) -> list[RepairRecord]:
        """Return the last repairs."""
        return list(self._dog.parts.repairs)

    async def probe(self, *, peer: str = "") -> list[PeerStatus]:
        """Look at *peer*, or all, now."""
        watches = [self._named(peer)] if peer else self._dog.all()

        async def one(watch: PeerWatch) -> None:
            async with watch.busy:
                await watch.look()

        async with anyio.create_task_group() as tasks:
            for watch in watches:
                tasks.start_soon(one, watch)
        return [status_of(watch) for watch in watches]

    async def repair(self, *, peer: str, step: str) -> RepairRecord:
        """Make a step now."""
        watch = self._named(peer)
        if step not in REPAIR_STEPS or step == TELL:
            known = ", ".join(one for one in REPAIR_STEPS if one != TELL)
            raise CallError(CallErrorKind.INVALID_PARAMS, f"no such step: {step!r}; known are {known}", field="step")
        async with watch.busy:
            made = await self._dog.mending.make(watch, step)
            watch.hurry.set()
        if made is None:
            raise CallError(CallErrorKind.FAILED, f"{step}: there is nothing to do for {peer}")
        return made

    async def asleep(self, *, peer: str, asleep: bool) -> PeerStatus:
        """Say that *peer* is asleep, or no longer."""
        watch = self._named(peer)
        memory = self._dog.parts.memory
        if asleep:
            memory.asleep.add(watch.name)
        else:
            memory.asleep.discard(watch.name)
        await memory.save()
        async with watch.busy:
            await watch.look()
        return status_of(watch)

    def _named(self, peer: str) -> PeerWatch:
        for watch in self._dog.all():
            if peer in (watch.name, watch.key):
                return watch
        known = ", ".join(watch.name for watch in self._dog.all())
        raise CallError(CallErrorKind.INVALID_PARAMS, f"no peer {peer!r}; known are {known or 'none'}", field="peer")
