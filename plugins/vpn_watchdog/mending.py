"""Having a peer mended: the next step of its ladder is made, given time to help, judged, taken back, and told."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from sparkd import DeviceError, RepairRecord, StorageError, TunnelRepair

from .diagnosis import Diagnosis
from .interface import WatchedInterface
from .ladder import TELL
from .memory import KEPT
from .peer import PeerWatch
from .repairs import DEEDS, Made, Target
from .states import TunnelState

RESTART_AGAIN_S = 600.0
PORT_AGAIN_S = 60.0
KNOCK_S = 0.5
Others = Callable[[WatchedInterface], list[PeerWatch]]
LOST = (TunnelState.DOWN, TunnelState.ASLEEP)
"""Nothing can be taken from a peer in these; one that is in doubt may be well."""


class Mending:
    """Repairs, by the ladders of the peers."""

    def __init__(self, peers_of: Others) -> None:
        """*peers_of* gives the peers of an interface: a repair must not take from one what works for another."""
        self._peers_of = peers_of

    async def tend(self, watch: PeerWatch) -> bool:
        """Do what is next for *watch*; return whether a step was made, so that it is looked at again at once."""
        config = watch.parts.config
        if watch.state is not TunnelState.DOWN or not config.repair:
            return False
        while True:
            choice = watch.ladder.next(
                watch.parts.now(), watch.diagnosis.word, hindrance=lambda step: self.hindrance(watch, step)
            )
            watch.repair_at = choice.at
            if not choice.step:
                return False
            if choice.step == TELL:
                await self._told(watch, choice.why)
                return False
            if await self.make(watch, choice.step) is not None:
                return True

    def hindrance(self, watch: PeerWatch, step: str) -> str:
        """Return why *step* may not be made for *watch* now; nothing if it may."""
        iface, now = watch.iface, watch.parts.now()
        if step in {"new-port", "restart-interface"}:
            works = [one.name for one in self._peers_of(iface) if one is not watch and one.state not in LOST]
            if works and not iface.error:
                return f"{', '.join(works)} works on {iface.name}"
        if step == "restart-interface":
            if now - iface.restarted_at < RESTART_AGAIN_S:
                return f"{iface.name} was restarted of late"
            if iface.error and iface.seen and not iface.vanished_by_us:
                return f"{iface.name} was taken down by somebody"
        if step == "new-port":
            if not all(one.dialled for one in self._peers_of(iface)):
                return f"others call {iface.name} at its port"
            if now - iface.port_at < PORT_AGAIN_S:
                return "the port was changed of late"
        return ""

    async def make(self, watch: PeerWatch, step: str) -> RepairRecord | None:
        """Make *step* and judge it; None if there was nothing to do, which is no repair."""
        parts = watch.parts
        before = watch.receiving()
        undone = False
        try:
            made = await DEEDS[step](self._target(watch))
            if made is None:
                watch.ladder.skip(step)
                return None
            detail, helped = made.detail, await self._helped(watch)
            if not helped:
                undone = await self._undo(made, worse=before and not self._receiving(watch))
        except DeviceError as error:
            detail, helped = f"{error} ({error.remedy})" if error.remedy else str(error), False
        await watch.iface.forget_settings()
        now = parts.now()
        if step in {"reset-peer", "restart-interface"}:
            watch.reset_at = now
        watch.ladder.note(step, helped=helped, now=now)
        if helped:
            watch.mended_by = step
        parts.memory.repairs[watch.name] = list(watch.ladder.made)[-KEPT:]
        await parts.memory.save()
        return await self._record(watch, step, helped=helped, detail=detail, undone=undone)

    def _target(self, watch: PeerWatch) -> Target:
        return Target(
            parts=watch.parts,
            iface=watch.iface,
            key=watch.key,
            endpoint=watch.track.endpoint,
            name=watch.endpoint_name,
        )

    async def _helped(self, watch: PeerWatch) -> bool:
        """Whether the peer answers within the time that a repair has to show that it helped."""
        epoch = watch.track.epoch
        with anyio.move_on_after(watch.parts.config.settle_s):
            while True:
                if watch.link is not None:
                    try:
                        await watch.link.knocker.ping(timeout_s=KNOCK_S)
                    except OSError:
                        pass
                    else:
                        return True
                else:
                    await watch.iface.look()
                    reading = watch.iface.reading(watch.key)
                    if reading is not None and reading.epoch not in (0, epoch):
                        return True
                await anyio.sleep(KNOCK_S / 2)
        return False

    @staticmethod
    def _receiving(watch: PeerWatch) -> bool:
        return watch.track.receiving(watch.parts.now(), within_s=watch.parts.config.settle_s)

    @staticmethod
    async def _undo(made: Made, *, worse: bool) -> bool:
        if made.undo is None or (made.keep and not worse):
            return False
        with anyio.CancelScope(shield=True):
            await made.undo()
        return True

    async def _told(self, watch: PeerWatch, why: str) -> None:
        said: Diagnosis = watch.diagnosis
        await self._record(watch, TELL, helped=False, detail=f"{why}: {said.reason}; {said.remedy}", undone=False)

    async def _record(self, watch: PeerWatch, step: str, *, helped: bool, detail: str, undone: bool) -> RepairRecord:
        parts, word = watch.parts, watch.diagnosis.word
        made = RepairRecord(
            at=parts.wall(),
            peer=watch.name,
            interface=watch.iface.name,
            step=step,
            diagnosis=word,
            helped=helped,
            detail=detail,
            undone=undone,
        )
        parts.repairs.append(made)
        parts.figures.repair(watch.name, step, helped=helped)
        parts.ctx.log.warning(
            "tunnel-repair", peer=watch.name, step=step, helped=helped, diagnosis=word, detail=detail, undone=undone
        )
        said = TunnelRepair(
            step=step,
            peer=watch.name,
            helped=helped,
            interface=watch.iface.name,
            diagnosis=word,
            detail=detail,
            undone=undone,
        )
        try:
            await parts.ctx.bus.publish(said)
        except StorageError as error:  # that a disk is full must not keep a tunnel down
            parts.ctx.log.warning("tunnel-repair-not-stored", peer=watch.name, why=str(error))
        return made
