"""The watch over one peer: look, judge, tell, and have it mended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import anyio

from .config import PeerConfig
from .diagnosis import Diagnosis, Evidence, afterwards, diagnose, while_up
from .findings import gather
from .interface import WatchedInterface
from .ladder import Ladder, Limits
from .link import Link
from .parts import Parts
from .report import tell
from .states import Probed, Signals, TunnelState, judge
from .track import Track, change_of
from .wg import only_address

SENDS_WITHIN_S = 60.0
RECENT_S = 120.0
"""How long something that is over is still told in the status."""
EARLY_S = (10.0, 100.0)
"""A session that lasted so long was begun anew before its time, which is 120 s. Shorter: both ends began at once."""
EVIDENCE_S = 30.0
"""How long findings are good for, while nothing changes."""
LONG_S = 300.0
SLOWER = 6
"""A peer that is down for five minutes is probed each sixth time; what comes from it wakes the watch at once."""
WELL = Diagnosis()
WORD_S = 20.0
"""Within it a peer that gets our probes has sent something, be it an empty packet."""
GONE_S = 15.0
"""A peer that is not on its interface for so long is gone; while that is restarted, it may be missing."""
AGAIN_S = 0.2
"""After a probe that failed, until the next."""
JUST_S = 5.0
"""What was gathered during the second probe is good for the diagnosis right after it."""


@dataclass(slots=True)
class PeerWatch:
    """A peer, what is known of it, and what is thought of that."""

    parts: Parts
    iface: WatchedInterface
    name: str
    key: str
    config: PeerConfig | None
    track: Track = field(init=False)
    ladder: Ladder = field(init=False)
    link: Link | None = None
    state: TunnelState = TunnelState.IDLE
    diagnosis: Diagnosis = WELL
    since: float = 0.0
    """Wall clock of the state."""
    since_mono: float = 0.0
    lost_at: float | None = None
    """When it was last found not to work, until it does again; and ..."""
    lost_by: str = ""
    """... what that was taken for."""
    lost_endpoint: str = ""
    repair_at: float | None = None
    mended_by: str = ""
    """The step that helped since it was lost."""
    reset_at: float = float("-inf")
    hurry: anyio.Event = field(default_factory=anyio.Event)
    busy: anyio.Lock = field(default_factory=anyio.Lock)
    _told: tuple[str, str] | None = None
    _missed: int = 0
    _missing_since: float = float("-inf")
    _answered_once: bool = False
    _found: tuple[float, Diagnosis] = (float("-inf"), WELL)
    _gathered: tuple[float, Evidence] = (float("-inf"), Evidence())
    _recent: tuple[float, Diagnosis] = (float("-inf"), WELL)
    _gone_at: float | None = None
    _climbing: bool = False

    def __post_init__(self) -> None:
        config, now = self.parts.config, self.parts.now()
        self.track = Track(since=now)
        self.since, self.since_mono = self.parts.wall(), now
        self.ladder = Ladder(
            Limits(
                steps=tuple(config.steps),
                per_hour=config.repairs_per_hour,
                backoff_s=config.backoff_s,
                backoff_most_s=config.backoff_most_s,
            )
        )
        self.ladder.made.extend(at for at in self.parts.memory.repairs.get(self.name, []) if at <= now)

    @property
    def answering(self) -> bool:
        """Whether the last probe was answered."""
        return self.link is not None and self._missed == 0

    @property
    def dialled(self) -> bool:
        """Whether this machine is the one that calls."""
        named = self.config is not None and bool(self.config.endpoint)
        return named or self.iface.setting(self.key).keepalive_s > 0

    @property
    def endpoint_name(self) -> str:
        """The endpoint as the config has it."""
        return self.config.endpoint if self.config is not None else ""

    def news(self) -> None:
        """Look now, for what was found out may be true no longer."""
        self._found = (float("-inf"), self._found[1])
        self.hurry.set()

    def asleep_by(self) -> str:
        """Return why it is asleep by policy; nothing if it is not."""
        if self.name in self.parts.memory.asleep:
            return "an operator said that it is asleep"
        modes = self.config.asleep_modes if self.config is not None else []
        mode = self.parts.modes.any_of(self.name, modes) if modes else ""
        return f"it is switched off while the power mode is {mode}" if mode else ""

    async def run(self, mend: Callable[[PeerWatch], Awaitable[bool]]) -> None:
        """Watch until cancelled, or the peer is gone from an interface that is there."""
        while True:
            self.hurry, begun = anyio.Event(), self.parts.now()
            async with self.busy:
                there = await self.look()
                self._climbing = there and await mend(self)
            if not there:
                return
            # Counted from probe to probe: a measurement in between may take as long as the interval.
            with anyio.move_on_after(max(self._interval_s() - (self.parts.now() - begun), AGAIN_S)):
                await self.hurry.wait()

    def _interval_s(self) -> float:
        config = self.parts.config
        if self._climbing or 0 < self._missed < 2:  # noqa: PLR2004 - the second one that is missed decides
            return AGAIN_S
        away = self.state is TunnelState.DOWN or (self.state is TunnelState.ASLEEP and not self.asleep_by())
        long = away and self.parts.now() - self.since_mono > LONG_S
        return config.interval_s * (SLOWER if long else 1)

    async def look(self) -> bool:
        """Look once, and tell what changed. Returns False if the peer is gone from its interface."""
        asleep = self.asleep_by()
        await self._read(max_age_s=self.parts.fresh_s)
        if not self.iface.error and self.iface.reading(self.key) is None:
            return self._missing()
        self._gone_at = None
        if not asleep and not self.iface.error:
            await (self._probe_and_gather() if self._missed == 1 else self._probe())
        state, why = judge(self._signals(asleep=bool(asleep)))
        if self.iface.error and not asleep:
            state, why = TunnelState.DOWN, self.iface.error
        await self._become(state, await self._diagnose(state), asleep or why)
        return True

    def _missing(self) -> bool:
        """Say whether it may come back."""
        now = self.parts.now()
        self._gone_at = now if self._gone_at is None else self._gone_at
        return now - self._gone_at < GONE_S

    async def _read(self, *, max_age_s: float) -> None:
        await self.iface.look(max_age_s=max_age_s)
        reading = self.iface.reading(self.key)
        if reading is not None:
            self.track.take(reading, now=self.parts.now(), wall=self.parts.wall())
            self._notice()

    def _notice(self) -> None:
        """Remember what is worth saying though the tunnel works."""
        now, track = self.parts.now(), self.track
        stepped = self.parts.clock.stepped_s if now - self.parts.clock.stepped_at < RECENT_S else 0.0
        age = track.age_s(now)
        early = (
            age is not None
            and age < 1.0
            and track.renewed_after_s is not None
            and EARLY_S[0] < track.renewed_after_s < EARLY_S[1]
            and self.lost_at is None
            and now - self.reset_at > EARLY_S[1]
        )
        moved = track.moved if self.lost_at is None else ""
        found = while_up(moved=moved, mtu=None, step_s=stepped, renewed_early=early)
        if found.word and found != self._recent[1]:
            self._recent = (now, found)

    async def _probe_and_gather(self) -> None:
        """Probe a second time, and look meanwhile why it may be lost: one after the other takes up to 7 s."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._gather)
            await self._probe()
            if self._missed == 0:
                tasks.cancel_scope.cancel()

    async def _gather(self) -> Evidence:
        found = await gather(self.parts, self.iface, self.track, name=self.endpoint_name, dialled=self.dialled)
        self._gathered = (self.parts.now(), found)
        return found

    async def _probe(self) -> None:
        if self.link is None:
            address = self._address()
            if not address:
                return
            self.link = Link.to(self.parts, address, device=self.iface.name, config=self.config)
        if await self.link.probe(lost=self._missed > 1):
            self._missed, self._answered_once = 0, True
            return
        await self._read(max_age_s=0.0)
        self._missed += 1
        if self._missed == 1:  # what came until now came before the loss
            self._missing_since = self.parts.now()

    def receiving(self) -> bool:
        """Whether something comes from it though it answers no probe."""
        return self.track.received_since(
            self._missing_since, self.parts.now(), within_s=2 * self.parts.config.interval_s
        )

    def _address(self) -> str:
        said = self.config.probe if self.config is not None else ""
        return "" if said == "none" else said or only_address(self.iface.setting(self.key).allowed)

    def _probed(self) -> Probed:
        if self.link is None:
            return Probed.NONE
        if self._missed == 0:
            return Probed.ANSWERED
        if not self._answered_once and self._seems_well():
            return Probed.NONE
        return Probed.MISSED if self._missed == 1 else Probed.LOST

    def _seems_well(self) -> bool:
        """Whether the tunnel works though no probe was ever answered: a firewall there, most likely.

        Whoever gets packets and has nothing to send says so within 10 s (KEEPALIVE_TIMEOUT); so silence is none.
        """
        now = self.parts.now()
        age = self.track.age_s(now)
        fresh = age is not None and age <= self.parts.config.suspect_s
        begun = now - self.track.since <= WORD_S
        return fresh and (begun or self.track.receiving(now, within_s=WORD_S))

    def _signals(self, *, asleep: bool) -> Signals:
        config, now = self.parts.config, self.parts.now()
        keepalive = self.iface.setting(self.key).keepalive_s > 0
        return Signals(
            asleep=asleep,
            expected=self.dialled or self.track.handshake_at is not None,
            may_sleep=self.config is not None and self.config.may_sleep,
            probed=self._probed(),
            age_s=self.track.age_s(now),
            receiving=self.receiving(),
            wanted=keepalive or self.track.sending(now, within_s=SENDS_WITHIN_S),
            silent_s=self.track.silent_s(now),
            suspect_s=config.suspect_s,
            stale_s=config.stale_s,
        )

    async def _diagnose(self, state: TunnelState) -> Diagnosis:
        if state is TunnelState.UP:
            return self._while_up()
        if state is TunnelState.DOWN or (state is TunnelState.STALE and self._missed > 1):
            return await self._why(state)
        return WELL

    def _while_up(self) -> Diagnosis:
        now = self.parts.now()
        if self.lost_at is not None:
            age = self.track.age_s(now)
            renewed = age is not None and age <= now - self.lost_at
            moved = change_of(self.lost_endpoint, self.track.endpoint)
            found = afterwards(self.lost_by, step=self.mended_by, renewed=renewed, moved=moved)
            self._recent = (now, found)
        if self.link is not None and self.link.shrunk is not None:
            return while_up(moved="", mtu=self.link.shrunk, step_s=0.0, renewed_early=False)
        if now - self._recent[0] < RECENT_S:
            return self._recent[1]
        return self._standing()

    def _standing(self) -> Diagnosis:
        """What is not as it should be, though the tunnel works."""
        wanted, setting = self.parts.config.keepalive_s, self.iface.setting(self.key)
        if self.endpoint_name and wanted and setting.keepalive_s != wanted:
            return Diagnosis(
                word="keepalive",
                reason=f"its keepalive is {setting.keepalive_s or 'off'}, {wanted} s is wanted",
                remedy=f"PersistentKeepalive = {wanted} in the interface's config, or set_keepalive = true here",
            )
        if self.link is not None and self._missed and not self._answered_once:
            return Diagnosis(
                word="probe-unanswered",
                reason=f"nothing answers {self.link.probe_label}, so its handshakes alone are judged",
                remedy="allow ping there, or name another address with `probe`",
            )
        return WELL

    async def _why(self, state: TunnelState) -> Diagnosis:
        now = self.parts.now()
        vain = self.lost_at is not None and self.reset_at >= self.lost_at
        same = self.lost_at is not None and state is self.state and not self._climbing
        if same and now - self._found[0] < EVIDENCE_S:
            return self._found[1]
        fresh = self.lost_at is None and not self.iface.error and now - self._gathered[0] < JUST_S
        evidence = self._gathered[1] if fresh else await self._gather()
        found = diagnose(replace(evidence, receiving=self.receiving(), reset_in_vain=vain))
        if fresh and found.word == "no-answer":  # "nobody listens" is said once a second (icmp(7)): the probes had it
            evidence = await self._gather()
            found = diagnose(replace(evidence, receiving=self.receiving(), reset_in_vain=vain))
        if found.word == "endpoint-moved" and self._found[1].word != found.word:
            self.ladder.again("re-resolve")
        self._found = (self.parts.now(), found)
        return found

    async def _become(self, state: TunnelState, diagnosis: Diagnosis, why: str) -> None:
        before, now = self.state, self.parts.now()
        if state is not before:
            self.state, self.since, self.since_mono = state, self.parts.wall(), now
        self.diagnosis = diagnosis
        if state in (TunnelState.UP, TunnelState.IDLE, TunnelState.ASLEEP):
            self.lost_at, self.lost_by, self.mended_by, self.repair_at = None, "", "", None
            self.ladder.over()
        elif diagnosis.word:
            if self.lost_at is None:
                self.lost_at, self.lost_endpoint = now, self.track.endpoint
            if diagnosis.word != "one-way" or not self.lost_by:  # a peer that comes back is heard before it hears
                self.lost_by = diagnosis.word
        self._tell_trouble(state, diagnosis)
        if self._told != (state.value, diagnosis.word):
            self._told = (state.value, diagnosis.word)
            if state is TunnelState.DOWN and self.link is not None:
                await self.link.say(self.name)
            await tell(self, before=before, reason=diagnosis.reason or why)

    def _tell_trouble(self, state: TunnelState, diagnosis: Diagnosis) -> None:
        ill = state is TunnelState.DOWN or diagnosis.word in {"mtu-shrunk", "one-way"}
        if ill and diagnosis.word != "interface-missing":  # the interface says that itself
            reason = f"{self.name} ({self.iface.name}): {diagnosis.reason or 'it does not answer'}"
            self.parts.troubles.say(f"peer {self.name}", reason, diagnosis.remedy)
        elif state is not TunnelState.STALE:
            self.parts.troubles.over(f"peer {self.name}")
